"""Users and groups by name or number; users without an entry in the user database."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from hsmd.system import host_users

UNKNOWN = 1_000_550_000


def test_a_user_without_an_entry_is_its_number() -> None:
    assert host_users.by_uid(UNKNOWN) == host_users.Account(str(UNKNOWN), UNKNOWN, UNKNOWN, Path("/"))
    assert host_users.find(str(UNKNOWN)) == host_users.by_uid(UNKNOWN)
    assert host_users.groups_of(host_users.by_uid(UNKNOWN)) == {UNKNOWN}
    assert host_users.group_name(UNKNOWN) == str(UNKNOWN)


@pytest.mark.parametrize("text", ["nobody-of-this-name", "", "-1", "4294967295", "١", "a\0b", "0x0"])
def test_other_texts_are_no_users_or_groups(text: str) -> None:
    assert (host_users.uid_of(text), host_users.gid_of(text), host_users.find(text)) == (None, None, None)


def test_names_and_numbers_are_found() -> None:
    assert host_users.uid_of("root") == host_users.uid_of("0") == host_users.gid_of("root") == 0
    assert host_users.find("root") == host_users.by_uid(0)


def test_home_comes_from_the_environment_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/somewhere")
    assert host_users.own_home() == Path("/somewhere")
    assert host_users.expand_home("~/key") == Path("/somewhere/key")
    monkeypatch.delenv("HOME")
    assert host_users.own_home() == host_users.by_uid(os.geteuid()).home
    monkeypatch.setattr(os, "geteuid", lambda: UNKNOWN)
    assert host_users.expand_home("~/key") == Path("/key")
    assert host_users.expand_home("~no-such-user/key") == Path("~no-such-user/key")
    assert host_users.expand_home("a~") == Path("a~")
