"""The PIN that a person types or a file holds: what is refused before a token gets it."""

from __future__ import annotations

import getpass
import os
import warnings
from pathlib import Path
from typing import NoReturn

import pytest

from hsmd.errors import ConfigurationError
from hsmd.pkcs11.pin import ask_pin, read_pin


@pytest.mark.parametrize(
    ("typed", "fault"),
    [
        ("", "none was entered"),
        ("x" * 256, "at most 255 bytes"),
        ("\N{EURO SIGN}" * 100, "at most 255 bytes"),
        ("12\x0034", "one line"),
        ("\udcff", "not UTF-8"),
        ("\ufeff1234", "invisible character"),
    ],
)
def test_an_impossible_pin_is_not_tried(monkeypatch: pytest.MonkeyPatch, typed: str, fault: str) -> None:
    monkeypatch.setattr(getpass, "getpass", lambda question: typed)
    with pytest.raises(ConfigurationError, match=fault) as caught:
        ask_pin("PIN: ")
    assert not typed or typed not in repr(caught.value)


def test_a_pin_is_returned_as_typed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(getpass, "getpass", lambda question: " 12 34 ")
    assert ask_pin("PIN: ") == " 12 34 "


def test_the_end_of_input_is_no_pin(monkeypatch: pytest.MonkeyPatch) -> None:
    def ended(question: str) -> NoReturn:
        raise EOFError

    monkeypatch.setattr(getpass, "getpass", ended)
    with pytest.raises(ConfigurationError, match="none was entered"):
        ask_pin("PIN: ")


def test_an_echoing_fallback_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def fall_back(question: str) -> str:
        warnings.warn("Can not control echo", getpass.GetPassWarning, stacklevel=2)
        return "1234"

    monkeypatch.setattr(getpass, "getpass", fall_back)
    with pytest.raises(ConfigurationError, match="no terminal"):
        ask_pin("PIN: ")


def test_a_pipe_in_place_of_the_file_is_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pin", 0o600)
    with pytest.raises(ConfigurationError, match="is not a regular file"):
        read_pin(tmp_path / "pin")


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        (b"\xef\xbb\xbf1234\n", "byte order mark"),
        ("1234\n".encode("utf-16"), "byte order mark"),
        (b"", "is empty"),
        (b"\n", "is empty"),
        (b"\r\n", "is empty"),
        (b"1234\n\n", "more than one line"),
        (b"1234\n5678\n", "more than one line"),
        (b"1234\r5678\r", "more than one line"),
        (b"12\x0034\n", "control character"),
        (b"12\t34\n", "control character"),
        (b"x" * 256, "longer than"),
        (b"x" * 100_000, "longer than"),
        (b"\xef\xbb\xbf" + b"x" * 255 + b"\r\n", "byte order mark"),
        (b"12\xff34\n", "not UTF-8"),
        (b"   \n", "white space"),
        ("12\u200b34\n".encode(), "invisible character"),
        ("1234\ufeff\n".encode(), "invisible character"),
    ],
)
def test_a_file_that_holds_no_pin_alone_is_refused_and_says_why(
    tmp_path: Path, content: bytes, fault: str
) -> None:
    file = tmp_path / "pin"
    file.write_bytes(content)
    file.chmod(0o600)
    with pytest.raises(ConfigurationError, match=fault) as caught:
        read_pin(file)
    assert str(file) in str(caught.value)
    for secret in ("1234", "5678", "xx"):
        assert secret not in str(caught.value)


@pytest.mark.parametrize("end", [b"", b"\n", b"\r\n"])
def test_one_line_end_of_any_system_is_removed(tmp_path: Path, end: bytes) -> None:
    file = tmp_path / "pin"
    file.write_bytes(" p\N{LATIN SMALL LETTER U WITH DIAERESIS} ".encode() + end)
    file.chmod(0o600)
    assert read_pin(file)[0] == " p\N{LATIN SMALL LETTER U WITH DIAERESIS} "


def test_a_directory_and_a_missing_file_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="is not a regular file"):
        read_pin(tmp_path)
    with pytest.raises(ConfigurationError, match="cannot be read: No such file"):
        read_pin(tmp_path / "missing")
