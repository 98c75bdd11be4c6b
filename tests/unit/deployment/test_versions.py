"""The versions that the agent writes: `current` is complete at any time, and only suitable certificates become current."""

from __future__ import annotations

import gc
import os
import signal
import stat
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from hsmd.deployment import pair
from hsmd.deployment.version_directories import CURRENT, KEPT
from hsmd.deployment.versions import CHAIN, REFERENCE, SWITCHED, CertificateVersions, Offer
from tests.support.renewals import DAY, NOW, Key, content


@pytest.fixture
def versions(tmp_path: Path) -> CertificateVersions:
    return CertificateVersions(tmp_path)


def current(state: Path, key: Key) -> tuple[bytes, bytes]:
    directory = state / "certificates" / key.name / CURRENT
    return (directory / "chain.pem").read_bytes(), (directory / "key.pem").read_bytes()


def listed(state: Path, key: Key) -> list[str]:
    return sorted(os.listdir(state / "certificates" / key.name))


def test_a_chain_becomes_current_with_its_reference(versions: CertificateVersions, tmp_path: Path) -> None:
    key = Key("www")
    offer = key.offer()
    assert versions.write([offer], NOW).switched == ["www"]
    chain, reference = current(tmp_path, key)
    assert pair.parse("www", chain, reference).chain_pem == offer.chain
    assert os.readlink(tmp_path / "certificates/www/current") == offer.version
    assert stat.S_IMODE((tmp_path / "certificates").stat().st_mode) == 0o700


def test_what_is_current_is_not_written_again(versions: CertificateVersions, tmp_path: Path) -> None:
    offers = [Key(f"key{number}").offer() for number in range(20)]
    versions.write(offers, NOW)
    before = {path: path.lstat().st_mtime_ns for path in tmp_path.rglob("*")}
    renewed = Key("new").offer()
    outcome = versions.write([*offers, renewed], NOW)
    assert (len(outcome.current), outcome.switched) == (20, ["new"])
    after = {path: path.lstat().st_mtime_ns for path in tmp_path.rglob("*") if "new" not in str(path)}
    del before[tmp_path / "certificates"], after[tmp_path / "certificates"]
    assert after == before


def test_what_the_disk_has_damaged_is_repaired(versions: CertificateVersions, tmp_path: Path) -> None:
    key = Key("www")
    offer = key.offer()
    versions.write([offer], NOW)
    (tmp_path / "certificates/www/current/chain.pem").write_text("damaged")
    assert versions.write([offer], NOW).switched == ["www"]
    assert current(tmp_path, key)[0].decode() == offer.chain


@pytest.mark.parametrize(
    ("chain", "reason"),
    [
        (lambda key: key.chain(NOW + timedelta(hours=1)), "not valid before"),
        (lambda key: key.chain(NOW - 9 * DAY, NOW), "ended on"),
        (lambda key: Key("www").chain(), "for another key"),
        (lambda key: key.chain()[:300], "damaged"),
        (lambda key: "", "damaged"),
        (lambda key: key.chain() * 17, "1 to 16"),
        (lambda key: "x" * (pair.MAX_CHAIN_BYTES + 1), "more than"),
    ],
    ids=["not yet valid", "ended", "other key", "cut off", "empty", "too many", "too long"],
)  # fmt: skip
def test_an_unsuitable_chain_never_becomes_current(
    versions: CertificateVersions, tmp_path: Path, chain: Any, reason: str
) -> None:
    key = Key("www")
    good = key.offer()
    versions.write([good], NOW)
    outcome = versions.write([Offer(key.reference, chain(key))], NOW)
    assert reason in outcome.refused["www"]
    assert outcome.switched == []
    assert current(tmp_path, key)[0].decode() == good.chain


def test_a_chain_that_was_not_yet_valid_becomes_current_later(versions: CertificateVersions) -> None:
    early = Key("www")
    offer = early.offer(early.chain(NOW + DAY, NOW + 9 * DAY))
    assert versions.write([offer], NOW).switched == []
    assert versions.write([offer], NOW + DAY).switched == ["www"]


@pytest.mark.parametrize("name", ["../www", "/tmp/www", ".www", "", "a/b", "www\n"])
def test_a_name_that_leaves_the_directory_is_refused(
    versions: CertificateVersions, tmp_path: Path, name: str
) -> None:
    outcome = versions.write([Key(name).offer()], NOW)
    assert outcome.switched == []
    assert list(outcome.refused) == [name]
    assert content(tmp_path) == {}


def test_old_versions_are_removed_and_a_few_kept(versions: CertificateVersions, tmp_path: Path) -> None:
    key = Key("www")
    offers = [key.offer() for _ in range(KEPT + 3)]
    for offer in offers:
        versions.write([offer], NOW)
    assert set(listed(tmp_path, key)) == {CURRENT, *(offer.version for offer in offers[-KEPT:])}


def test_keys_that_are_gone_are_removed(versions: CertificateVersions, tmp_path: Path) -> None:
    versions.write([Key("a").offer(), Key("b").offer()], NOW)
    assert versions.keep_only(["b"]) == ["a"]
    assert os.listdir(tmp_path / "certificates") == ["b"]


def test_a_full_disk_fails_only_what_it_fails(
    versions: CertificateVersions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    link = os.symlink

    def full(target: str, path: Path) -> None:
        if "/a/" in str(path):
            raise OSError(28, "No space left on device")
        link(target, path)

    monkeypatch.setattr(os, "symlink", full)
    outcome = versions.write([Key("a").offer(), Key("b").offer()], NOW)
    assert outcome.failed == {"a": "No space left on device"}
    assert outcome.switched == ["b"]


STEPS = ("mkdir", "open", "fsync", "replace", "symlink", "rename", "unlink", "rmdir")
"""The system calls of a switch, before each of which a process is killed."""


def killed_before(step: int, state: Path, offers: list[Offer]) -> str:
    """Write `offers` in a process that is killed before its system call number `step`; return its name, empty if all was done."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        gc.disable()  # finalizers of what other tests have left make system calls, too
        left = step

        def counted(name: str, call: Any) -> Any:
            def made(*arguments: Any, **more: Any) -> Any:
                nonlocal left
                left -= 1
                if left < 0:
                    os.write(writing, name.encode())
                    os.kill(os.getpid(), signal.SIGKILL)
                return call(*arguments, **more)

            return made

        for name in STEPS:
            setattr(os, name, counted(name, getattr(os, name)))
        try:
            written = CertificateVersions(state)
            assert written.write(offers, NOW).switched
            written.announce()
            os._exit(0)
        finally:
            os._exit(1)
    os.close(writing)
    with open(reading) as pipe:
        name = pipe.read()
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status) == bool(name)
    assert name or os.waitstatus_to_exitcode(status) == 0
    return name


def test_a_kill_at_any_step_leaves_a_complete_current(versions: CertificateVersions, tmp_path: Path) -> None:
    """Old versions are there, so that the removal of one is among the steps."""
    key, points = Key("www"), []
    for _ in range(KEPT):
        last = key.offer()
        versions.write([last], NOW)
    for step in range(200):
        offer = key.offer()
        point = killed_before(step, tmp_path, [offer])
        chain, reference = current(tmp_path, key)
        pair.parse("www", chain, reference)
        assert chain.decode() in (last.chain, offer.chain), point
        if not point:
            break
        points.append(point)
        versions.write([offer], NOW)
        assert current(tmp_path, key)[0].decode() == offer.chain
        last = key.offer()
        versions.write([last], NOW)
        assert len(listed(tmp_path, key)) == KEPT + 1, point
        home = tmp_path / "certificates" / key.name
        assert all({CHAIN, REFERENCE} <= set(os.listdir(home / name)) for name in listed(tmp_path, key)), (
            point
        )
    assert set(points) == set(STEPS)
    assert (tmp_path / SWITCHED).exists()
