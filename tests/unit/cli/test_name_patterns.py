"""Commands about several keys: names and patterns, what they stand for, and what is done when some of it fails."""

from __future__ import annotations

import json

import pytest

from hsmd.cli.base import name_patterns
from hsmd.errors import BadRequest, Unavailable
from hsmd.protocol import messages
from tests.support.cli import Run
from tests.support.fake_control import FakeControl


@pytest.fixture(autouse=True)
def sites(daemon: FakeControl) -> None:
    for name in ("www", "site-1", "site-2", "site-10", "mail"):
        daemon.on_key_generate(messages.KeyGenerate(name, "p-256", ["tls-server"]))


def granted(daemon: FakeControl) -> set[tuple[str, str]]:
    return set(daemon.grants)


def test_a_pattern_grants_each_key_on_its_own(run: Run, daemon: FakeControl) -> None:
    ran = run("grant", "add", "web1", "site-*", "-p", "tls13-server", "--yes")
    assert (ran.code, granted(daemon)) == (0, {("web1", f"site-{number}") for number in (1, 2, 10)})
    asked = [request for request in daemon.asked if isinstance(request, messages.GrantAdd)]
    assert [request.key for request in asked] == ["site-1", "site-10", "site-2"]
    assert "grant web1, for tls13-server, 3 keys: site-1, site-10, site-2" in ran.err
    assert ran.out == "web1 may use 3 keys for tls13-server.\n"


def test_a_pattern_is_not_carried_out_without_a_confirmation(run: Run, daemon: FakeControl) -> None:
    ran = run("grant", "add", "web1", "site-*")
    assert ran.code == 1
    assert "add --yes" in ran.err
    assert "site-10" in ran.err
    assert not granted(daemon)


def test_several_names_need_no_confirmation(run: Run, daemon: FakeControl) -> None:
    document = json.loads(run("grant", "add", "web1", "mail", "www", "--json").out)
    assert [grant["key"] for grant in document["grants"]] == ["mail", "www"]
    assert document["failed"] == {}


@pytest.mark.parametrize(("text", "says"), [("nothing-*", "no key matches"), ("nothing", "there is no key")])
def test_what_stands_for_no_key_is_named(run: Run, daemon: FakeControl, text: str, says: str) -> None:
    ran = run("grant", "add", "web1", "www", text, "--yes")
    assert ran.code == 1
    assert f"{says} '{text}'" in ran.err
    assert not granted(daemon)


@pytest.mark.parametrize("text", ["a b*", "*\x1b", "ü*", ""])
def test_a_pattern_that_can_match_no_name_is_a_usage_error(run: Run, text: str) -> None:
    assert run("grant", "add", "web1", text).code == 2


def test_keys_that_fail_are_named_and_the_others_done(
    run: Run, daemon: FakeControl, monkeypatch: pytest.MonkeyPatch
) -> None:
    add = daemon.on_grant_add

    def refuse_one(request: messages.GrantAdd) -> messages.GrantInfo:
        if request.key == "site-10":
            raise BadRequest("purposes: beyond the key's ceiling")
        return add(request)

    monkeypatch.setattr(daemon, "on_grant_add", refuse_one)
    ran = run("grant", "add", "web1", "site-*", "--yes")
    assert ran.code == 1
    assert "site-10: purposes: beyond the key's ceiling" in ran.err
    assert "1 key left unchanged" in ran.err
    assert granted(daemon) == {("web1", "site-1"), ("web1", "site-2")}


def test_work_that_ends_early_tells_how_far_it_is(
    run: Run, daemon: FakeControl, monkeypatch: pytest.MonkeyPatch
) -> None:
    add = daemon.on_grant_add
    for error in (Unavailable("the store is away"), KeyboardInterrupt()):

        def end_early(request: messages.GrantAdd, error: BaseException = error) -> messages.GrantInfo:
            if request.key == "site-2":
                raise error
            return add(request)

        monkeypatch.setattr(daemon, "on_grant_add", end_early)
        ran = run("grant", "add", "web1", "site-*", "--yes")
        assert ran.code != 0
        assert "stopped after 2 of 3 keys; repeat the command for the others" in ran.err


def test_lists_of_keys_take_patterns(run: Run, daemon: FakeControl) -> None:
    def listed(*arguments: str) -> list[str]:
        return [key["name"] for key in json.loads(run("key", "list", *arguments, "--json").out)["keys"]]

    assert len(listed()) == 5
    assert listed("site-*") == ["site-1", "site-10", "site-2"]
    assert listed("site-?", "www") == ["site-1", "site-2", "www"]
    assert listed("nothing-*") == []
    assert run("key", "list", "a b").code == 2


def test_long_lists_tell_how_far_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    progress = name_patterns.Progress("read:", 0, every_s=0.0)
    progress.step(1000)
    progress.step(1000)
    assert capsys.readouterr().err.splitlines() == ["read: 1,000 so far", "read: 2,000 so far"]


def test_a_pattern_removes_what_the_client_has(run: Run, daemon: FakeControl) -> None:
    for client, key in (("web1", "site-1"), ("web1", "www"), ("web2", "site-2")):
        daemon.on_grant_add(messages.GrantAdd(client, key, ["tls13-server"]))
    assert run("grant", "remove", "web1", "site-*", "--yes").code == 0
    assert granted(daemon) == {("web1", "www"), ("web2", "site-2")}


def test_long_work_tells_how_far_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    progress = name_patterns.Progress("exported", 3, every_s=0.0)
    for _ in range(3):
        progress.step()
    assert capsys.readouterr().err.splitlines() == ["exported 1 of 3", "exported 2 of 3"]


def test_a_long_plan_is_cut(capsys: pytest.CaptureFixture[str]) -> None:
    name_patterns.plan("exports", [f"k{number:02}" for number in range(25)])
    assert capsys.readouterr().err.rstrip().endswith("k19 and 5 more")
