"""The file in which a program names its token: what it may say, and files that are refused."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from hsmd.errors import ConfigurationError
from hsmd.pkcs11.settings import TokenSettings
from hsmd.pkcs11.settings_file import read_token_file

GOOD = """
[token]
module = "/usr/lib/module.so"
label = "owner"
pin_file = "pin"
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    file = tmp_path / "owner.toml"
    file.write_text(GOOD)
    file.chmod(0o600)
    return file


def fault_of(path: Path) -> str:
    with pytest.raises(ConfigurationError) as caught:
        read_token_file(path)
    assert caught.value.source == str(path)
    return caught.value.text


def test_the_settings_of_a_token(path: Path) -> None:
    expected = TokenSettings(
        name=str(path), module="/usr/lib/module.so", label="owner", pin_file=str(path.with_name("pin"))
    )
    assert read_token_file(path) == expected
    assert read_token_file(path, read_write=True).read_write
    path.write_text('[token]\nmodule = "m.so"\nslot = 0\nprompt = true\nlock_file = "lock"\n')
    settings = read_token_file(path)
    assert settings == TokenSettings(
        name=str(path),
        module=str(path.with_name("m.so")),
        slot=0,
        prompt=True,
        lock_file=str(path.with_name("lock")),
    )


@pytest.mark.parametrize(
    ("old", "new", "fault"),
    [
        ('module = "/usr/lib/module.so"', "", "token.module: is missing; it must be a string"),
        ('label = "owner"', "", "token.label: choose the token by exactly one of label, serial and slot"),
        ('label = "owner"', 'label = "owner"\nserial = "1"', "token.label: choose the token by exactly one"),
        ('label = "owner"', "slot = -1", "token.slot: must be a whole number from 0"),
        ('pin_file = "pin"', "", "token.pin_file: name a pin_file, or set prompt = true"),
        ('pin_file = "pin"', 'pin_file = "pin"\nprompt = true', "token.pin_file: name a pin_file, or"),
        ('pin_file = "pin"', 'prompt = "yes"', "token.prompt: must be true or false"),
        ('pin_file = "pin"', 'pin = "1234"\nprompt = true', "token.pin: is not a setting"),
        ('pin_file = "pin"', 'prompt = true\npin_credential = "x"', "token.pin_credential: is not a setting"),
        ("[token]", "[[token]]", "token: must be a table"),
        ("[token]", "[toke]", "toke: is not a setting"),
        ("[token]", "[token", "is not TOML"),
    ],
)
def test_a_fault_names_file_section_setting_and_fix(path: Path, old: str, new: str, fault: str) -> None:
    path.write_text(GOOD.replace(old, new))
    assert f"{path}: {fault}" in fault_of(path)


def test_all_faults_are_reported_together(path: Path) -> None:
    path.write_text("[token]\nprompt = 7\ncolour = 1\n")
    text = fault_of(path)
    for setting in ("token.module", "token.label", "token.prompt", "token.pin_file", "token.colour"):
        assert f"{path}: {setting}: " in text


@pytest.mark.parametrize("mode", [0o620, 0o602, 0o666])
def test_a_file_that_others_could_change_is_refused(path: Path, mode: int) -> None:
    path.chmod(mode)
    assert f"chmod go-w {path}" in fault_of(path)
    path.chmod(0o644)
    read_token_file(path)


def test_a_missing_file_says_what_belongs_into_it(path: Path) -> None:
    path.unlink()
    assert "cannot be read: No such file or directory; it must hold a section [token]" in fault_of(path)


def test_a_file_of_another_user_is_refused(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    owner = path.stat().st_uid
    monkeypatch.setattr("os.geteuid", lambda: owner + 1)
    if owner == 0:  # root's files are trusted; this one then belongs to a third user
        os.chown(path, 4321, -1)
    assert "belongs to another user" in fault_of(path)
