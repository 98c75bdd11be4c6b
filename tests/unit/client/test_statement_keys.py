"""The statement keys of a client: what is pinned, what follows from it, and what is remembered."""

from __future__ import annotations

import errno
import json
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from hsmd.client.statement_keys import StatementKeyPins
from hsmd.errors import ConfigurationError, ProtocolError
from hsmd.protocol.messages import StatementKey, StatementKeyList
from hsmd.system import atomic_file
from hsmd.transparency.declaration import OPERATOR
from hsmd.transparency.endorsement import Endorsement, material_of, sign
from hsmd.transparency.note import Verifier
from hsmd.transparency.statement import signer_of

ANN, MALLORY = Ed25519PrivateKey.generate(), Ed25519PrivateKey.generate()
OPERATORS = [Verifier.from_public_key(OPERATOR, ANN.public_key())]


def key(daemon: str = "fra-1") -> Verifier:
    return Verifier.from_public_key(signer_of(daemon), Ed25519PrivateKey.generate().public_key())


OLD, NEW = key(), key()


def shown(*keys: Verifier, notes: tuple[str, ...] = (), state: str = "signs") -> StatementKeyList:
    listed = [StatementKey(f"key-{n}", state, material_of(one), [one.vkey]) for n, one in enumerate(keys)]
    return StatementKeyList(listed, list(notes))


def note(old: Verifier, new: Verifier, operator: Ed25519PrivateKey = ANN) -> str:
    return sign(
        Endorsement(material_of(old), material_of(new), "2026-01-02T03:04:05.000006Z", "why"), operator
    ).render()


def pins(tmp_path: Path, *pinned: Verifier) -> StatementKeyPins:
    return StatementKeyPins(tmp_path / "statement-keys.json", pinned, OPERATORS)


def test_a_new_key_is_accepted_only_with_an_endorsement_by_a_known_operator(tmp_path: Path) -> None:
    mine = pins(tmp_path, OLD)
    assert mine.learn(shown(NEW, OLD)) == [OLD]
    assert mine.learn(shown(NEW, OLD, notes=(note(OLD, NEW, MALLORY),))) == [OLD]
    assert mine.accepted() == [OLD]
    assert set(mine.learn(shown(NEW, OLD, notes=(note(OLD, NEW),)))) == {OLD, NEW}


def test_what_was_accepted_is_known_offline_and_later(tmp_path: Path) -> None:
    pins(tmp_path, OLD).learn(shown(NEW, notes=(note(OLD, NEW),)))
    assert set(pins(tmp_path, OLD).accepted()) == {OLD, NEW}
    assert set(pins(tmp_path, OLD).learn(shown(OLD))) == {OLD, NEW}, "a daemon cannot make a client forget"


def test_the_remembered_file_proves_what_it_holds(tmp_path: Path) -> None:
    """Without the pin, without the operator, or edited without a note, a remembered key does not count."""
    pins(tmp_path, OLD).learn(shown(NEW, notes=(note(OLD, NEW),)))
    assert pins(tmp_path, key()).accepted()[1:] == []
    stranger = StatementKeyPins(tmp_path / "statement-keys.json", [OLD], [])
    assert stranger.accepted() == [OLD]
    file = tmp_path / "statement-keys.json"
    document = json.loads(file.read_text())
    file.write_text(json.dumps({**document, "keys": [*document["keys"], key().vkey]}))
    assert set(pins(tmp_path, OLD).accepted()) == {OLD, NEW}
    assert file.stat().st_mode & 0o777 == 0o600


def test_a_client_without_a_pin_accepts_what_it_is_shown_first_and_nothing_else_later(tmp_path: Path) -> None:
    mine = pins(tmp_path)
    assert mine.accepted() == []
    assert mine.learn(shown(OLD)) == [OLD]
    assert mine.learn(shown(NEW)) == [OLD]
    assert pins(tmp_path).accepted() == [OLD]
    assert set(mine.learn(shown(NEW, notes=(note(OLD, NEW),)))) == {OLD, NEW}


def test_a_key_that_waits_is_not_accepted(tmp_path: Path) -> None:
    assert pins(tmp_path).learn(shown(NEW, state="waits")) == []
    assert pins(tmp_path, OLD).learn(shown(NEW, state="waits", notes=(note(OLD, NEW),))) == [OLD]


def test_an_empty_list_pins_nothing(tmp_path: Path) -> None:
    assert pins(tmp_path).learn(shown()) == []
    assert pins(tmp_path).learn(shown(OLD)) == [OLD]


def test_a_daemon_cannot_fill_the_file(tmp_path: Path) -> None:
    mine = pins(tmp_path, OLD)
    mine.learn(shown(*(key() for _ in range(50)), notes=tuple(note(OLD, key(), MALLORY) for _ in range(50))))
    document = json.loads((tmp_path / "statement-keys.json").read_text()) if mine.accepted() != [OLD] else {}
    assert document == {}
    mine.learn(shown(OLD, NEW, notes=("x", note(OLD, NEW))))
    document = json.loads((tmp_path / "statement-keys.json").read_text())
    assert (len(document["keys"]), len(document["endorsements"])) == (2, 1)


def test_a_file_that_could_not_be_read_again_is_not_written(tmp_path: Path) -> None:
    """A daemon can show one accepted key under any number of names."""
    known = pins(tmp_path)
    known.learn(shown(OLD))
    names = [Verifier(signer_of(f"{'x' * 50}-{n}"), OLD.kind, OLD.key) for n in range(10_000)]
    with pytest.raises(ConfigurationError, match="the daemon shows too many keys"):
        known.learn(shown(*names))
    assert known.accepted() == [OLD]


def test_a_user_who_may_not_write_follows_what_is_known_and_begins_with_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the user of an SSH server's command: a new key that operators have endorsed must not end all logins."""
    (tmp_path / "first").mkdir()
    pins(tmp_path / "first").learn(shown(OLD))
    refused = OSError(errno.EACCES, "Permission denied")

    def replace(*_: object) -> None:
        raise refused

    monkeypatch.setattr(atomic_file, "replace", replace)
    for mine in (pins(tmp_path, OLD), pins(tmp_path / "first")):
        assert set(mine.learn(shown(NEW, OLD, notes=(note(OLD, NEW),)))) == {OLD, NEW}
        assert mine.learn(shown(NEW, OLD, notes=(note(OLD, NEW, MALLORY),))) == [OLD]
        assert mine.accepted() == [OLD]
    with pytest.raises(
        ConfigurationError, match="cannot be written: Permission denied; run this once as a user who"
    ):
        pins(tmp_path).learn(shown(OLD))
    refused = OSError(errno.ENOSPC, "No space left on device")
    with pytest.raises(ConfigurationError, match="No space left"):
        pins(tmp_path, OLD).learn(shown(NEW, OLD, notes=(note(OLD, NEW),)))


def test_a_damaged_file_and_malformed_keys_are_errors(tmp_path: Path) -> None:
    with pytest.raises(ProtocolError):
        pins(tmp_path).learn(StatementKeyList([StatementKey("a", "signs", "", ["x"])], []))
    for content in ("{", '{"keys": ["x"]}', "[]"):
        (tmp_path / "statement-keys.json").write_text(content)
        with pytest.raises(ConfigurationError):
            pins(tmp_path, OLD).accepted()
