"""Commands as witnesses: where they store checkpoints, which operators' declarations they accept, and their exit codes."""

from __future__ import annotations

from pathlib import Path

import pytest

from hsmd.cli import enroll
from hsmd.cli.base import connection, profile as profiles, ssh_keys
from hsmd.cli.base.connection import Session
from hsmd.cli.base.errors import CommandError, Exit
from hsmd.cli.base.output import Output
from hsmd.client import Client
from hsmd.client.witness import LogRefused
from hsmd.client.witness_memory import Memories, Memory
from hsmd.protocol.enrolment import EnrolmentAnswer, EnrolmentToken
from hsmd.protocol.messages import Identity, WhoAmI
from tests.support.cli import Run


@pytest.fixture
def profile(tmp_path: Path) -> Path:
    line = ssh_keys.make(tmp_path / "operator_ed25519", "me").line
    file = tmp_path / "operator.toml"
    file.write_text(
        f'daemon = "127.0.0.1:7440"\nuser = "me"\nidentity = "operator_ed25519"\nhost_keys = ["{line}"]\n'
    )
    return file


def test_a_refused_log_ends_a_command_with_exit_code_4(
    profile: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> Client:
        raise LogRefused("127.0.0.1:7440", "hsmd/east", "it has 6 records; it had 8", Path("/somewhere"))

    monkeypatch.setattr(Client, "connect", refuse)
    with pytest.raises(CommandError) as stopped, Session(Output(as_json=False), profile=profile) as session:
        session.ask(WhoAmI(), Identity)
    assert stopped.value.code == Exit.PROBLEMS
    assert "it has 6 records" in stopped.value.line and "/somewhere" in stopped.value.line
    assert "hsmd audit discontinuity" in stopped.value.line


@pytest.mark.parametrize("witnessed", [True, False])
def test_checkpoints_are_stored_beside_the_profile(
    profile: Path, monkeypatch: pytest.MonkeyPatch, witnessed: bool
) -> None:
    seen = []

    def made(_: object, judge: object) -> object:
        seen.append(judge)
        raise CommandError("enough", "")

    monkeypatch.setattr(connection, "connect", made)
    session = Session(Output(as_json=False), profile=profile)
    session.witnessed = witnessed
    with pytest.raises(CommandError):
        session.ask(WhoAmI(), Identity)
    (judge,) = seen
    if not witnessed:
        assert judge is None
        return
    assert judge.memories.directory == profile.parent / "witness"
    assert judge._operators == tuple(ssh_keys.operator_keys(profile.parent / "operator_ed25519")) != ()


def test_without_an_ed25519_public_key_no_operator_is_pinned(tmp_path: Path) -> None:
    assert ssh_keys.operator_keys(None) == ssh_keys.operator_keys(tmp_path / "nothing") == []
    (tmp_path / "id.pub").write_text("ecdsa-sha2-nistp256 AAAA\n")
    assert ssh_keys.operator_keys(tmp_path / "id") == []


def test_an_operator_forgets_a_log_with_a_command(run: Run, profile: Path) -> None:
    """After another operator has declared a break."""
    memories = Memories(profile.parent / "witness")
    known = Memory(
        origin="hsmd/east",
        addresses=["127.0.0.1:7440"],
        size=8,
        root="ab" * 32,
        note="note",
        key="key",
    )
    memories.store(known, None)
    of = ("--profile", str(profile))
    assert "hsmd/east" in run("audit", "witness", "list", *of).out
    assert run("audit", "witness", "reset", "hsmd/west", *of).code == 2
    ran = run("audit", "witness", "reset", "hsmd/east", *of)
    assert (ran.code, "--yes" in ran.err) == (2, True)
    assert run("audit", "witness", "reset", "hsmd/east", "--yes", *of).code == 0
    assert memories.all() == []


def test_declarations_of_operators_in_the_profile_are_accepted(
    profile: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = ssh_keys.make(tmp_path / "other_ed25519", "other").line
    profile.write_text(profile.read_text() + f'operator_keys = ["{other}"]\n')
    own, theirs = Session(Output(as_json=False), profile=profile)._witness()._operators  # type: ignore[union-attr]
    assert own == ssh_keys.operator_keys(tmp_path / "operator_ed25519")[0]
    assert theirs == ssh_keys.operator_keys(tmp_path / "other_ed25519")[0]


def test_an_enrolment_writes_the_keys_of_other_operators_into_the_profile(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = ssh_keys.make(tmp_path / "other_ed25519", "other").line
    statements = ["example+00000000+AAAA"]
    answer = EnrolmentAnswer("me", "operator", [other], [other], statement_keys=statements)
    token = EnrolmentToken(b"i" * 8, b"s" * 16, b"p" * 32, False, "192.0.2.1:7440")
    monkeypatch.setattr(enroll, "read_token", lambda source: token)
    monkeypatch.setattr(enroll, "register", lambda *_: answer)
    made = tmp_path / "new" / "operator.toml"
    assert run("enroll", "-", "--profile", str(made)).code == 0
    written = profiles.load(made)
    assert (written.operator_keys, written.statement_keys) == ((other,), tuple(statements))
