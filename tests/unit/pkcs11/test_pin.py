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
