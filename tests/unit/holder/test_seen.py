"""What was seen of statements: an older one is refused, and so is another one with the same number."""

from __future__ import annotations

import multiprocessing
from pathlib import Path

import pytest

from hsmd.errors import ConfigurationError
from hsmd.holder.seen import Before, Newest, OlderStatement, Seen, Subject, check_not_older

WWW = Subject("anna", "www", 1)


def test_newer_statements_are_learnt_and_older_ones_refused(tmp_path: Path) -> None:
    seen = Seen(tmp_path / "seen")
    assert seen.newest(WWW) is None
    seen.learn(WWW, Newest(3, "aa"))
    seen.learn(WWW, Newest(3, "aa"))
    assert seen.learn(WWW, Newest(5, "bb"))
    with pytest.raises(
        OlderStatement, match="gave statement 4 of www version 1, and this machine has seen number 5"
    ):
        check_not_older(WWW, Newest(5, "bb"), Newest(4, "cc"))
    assert not seen.learn(WWW, Newest(4, "cc"))
    with pytest.raises(OlderStatement, match="another statement 5 of www version 1"):
        seen.learn(WWW, Newest(5, "cc"))
    assert Seen(tmp_path / "seen").newest(WWW) == Newest(5, "bb")


def test_what_was_seen_before_is_that_of_the_version_that_is_asked_for(tmp_path: Path) -> None:
    seen = Seen(tmp_path)
    assert seen.before("anna", "www") == Before(0, None)
    for version in (2, 10):
        seen.learn(Subject("anna", "www", version), Newest(version, "aa"))
    assert seen.before("anna", "www") == Before(10, Newest(10, "aa"))
    assert seen.before("anna", "www", 2) == Before(2, Newest(2, "aa"))
    assert seen.before("anna", "www", 3) == Before(3, None)
    assert seen.before("anna", "www").of(Subject("anna", "www", 2)) is None


def test_versions_records_and_owners_are_apart(tmp_path: Path) -> None:
    seen = Seen(tmp_path)
    seen.learn(WWW, Newest(3, "aa"))
    for other in (Subject("anna", "www", 2), Subject("anna", "mail", 1), Subject("bert", "www", 1)):
        seen.learn(other, Newest(1, "bb"))
    assert seen.newest(WWW) == Newest(3, "aa")


def test_only_the_owner_can_read_the_memory(tmp_path: Path) -> None:
    seen = Seen(tmp_path / "deep" / "seen")
    seen.learn(WWW, Newest(1, "aa"))
    file = tmp_path / "deep" / "seen" / "anna" / "www" / "1.json"
    assert file.stat().st_mode & 0o777 == 0o600
    assert file.parent.stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize(
    "content", [b"", b"{}", b'{"number": 1}', b'{"number":1,"digest":"a","x":1}', b" " * 5_000]
)
def test_a_damaged_memory_is_named_and_not_taken_for_an_empty_one(tmp_path: Path, content: bytes) -> None:
    seen = Seen(tmp_path)
    seen.learn(WWW, Newest(1, "aa"))
    (tmp_path / "anna" / "www" / "1.json").write_bytes(content)
    with pytest.raises(ConfigurationError, match=r"1\.json: cannot be used"):
        seen.learn(WWW, Newest(2, "bb"))


@pytest.mark.parametrize("name", ["../x", "..", "", "a/b"])
def test_a_name_that_is_a_path_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigurationError, match="not a name of a record"):
        Seen(tmp_path / "seen").learn(Subject("anna", name, 1), Newest(1, "aa"))


def _learn_all(directory: Path, numbers: list[int]) -> None:
    seen = Seen(directory)
    for number in numbers:
        seen.learn(WWW, Newest(number, f"{number}"))


def test_commands_at_the_same_time_never_set_it_back(tmp_path: Path) -> None:
    """Four processes learn interleaved numbers; without the lock the last writer may have an older one."""
    context = multiprocessing.get_context("spawn")
    processes = [
        context.Process(target=_learn_all, args=(tmp_path, list(range(start, 100, 4)))) for start in range(4)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
        assert process.exitcode == 0
    assert Seen(tmp_path).newest(WWW) == Newest(99, "99")
