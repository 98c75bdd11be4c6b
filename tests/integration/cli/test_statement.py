"""`hsmd statement` with a real daemon: keys pinned at enrolment, statements verified offline, a key replaced by an operator."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from hsmd.agent.config import load
from hsmd.cli.base.errors import Exit
from hsmd.protocol import messages
from tests.support.daemon import Daemon, run_aside
from tests.support.front_in_process import front_parts

pytestmark = pytest.mark.timeout(180)


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Daemon]:
    """A daemon that has stated something, and keeps its address over restarts; not running."""
    built = Daemon(tmp_path / "daemon")
    stated(built)
    built.start()
    built.addresses = [":".join(map(str, built.address))]
    built.stop()
    built.write()
    yield built
    built.end()


def stated(daemon: Daemon) -> str:
    """A statement that the front's parts signed."""

    async def work() -> str:
        async with front_parts(daemon) as parts:
            return await parts.statements.sign_statement("deposit-receipt", ["key 00ff"])

    return str(run_aside(work))


def hsmd(*arguments: str | Path, given: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "hsmd.cli", *map(str, arguments)],
        input=given,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def ticket(daemon: Daemon, name: str, role: str) -> str:
    made: messages.EnrolmentTicket = daemon.ask(messages.ClientEnroll(name=name, role=role))
    return made.token


def enrolled(daemon: Daemon, directory: Path, name: str, role: str = "operator") -> Path:
    """The profile of a new client."""
    profile = directory / f"{name}.toml"
    done = hsmd("enroll", "-", "--profile", profile, given=ticket(daemon, name, role))
    assert done.returncode == 0, done.stderr
    return profile


def verify(profile: Path, note: str, *options: str) -> subprocess.CompletedProcess[str]:
    return hsmd("statement", "verify", "-", "--profile", profile, *options, given=note)


def test_statements_are_verified_with_the_keys_of_the_enrolment(daemon: Daemon, tmp_path: Path) -> None:
    daemon.start()
    ann = enrolled(daemon, tmp_path, "ann")
    agent = tmp_path / "agent.toml"
    done = hsmd(
        "agent", "init", "--enroll", "-", "--config", agent, "--socket", tmp_path / "sock",
        "--allow", "root", given=ticket(daemon, "web-9", "front-end"),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    daemon.stop()
    assert [key.name for key in load(agent).statement_keys] == ["hsmd.statement/test"]
    note = stated(daemon)
    good = verify(ann, note, "--kind", "deposit-receipt")
    assert good.returncode == 0, good.stderr
    assert "key 00ff" in good.stdout
    for text, options, code in (
        (note.replace("00ff", "00fe"), (), Exit.ALTERED),
        (note, ("--kind", "rollover-command"), Exit.OTHER_KIND),
        ("", (), Exit.MALFORMED),
    ):
        assert verify(ann, text, *options).returncode == code


def test_an_operator_replaces_the_key_and_clients_follow(daemon: Daemon, tmp_path: Path) -> None:
    daemon.start()
    ann, bob = enrolled(daemon, tmp_path, "ann"), enrolled(daemon, tmp_path, "bob", "auditor")
    made = hsmd(
        "key", "generate", "statement-2027", "--type", "p-256", "--purpose", "statement", "--profile", ann
    )
    assert made.returncode == 0 and "hsmd grant add" not in made.stderr, made.stderr
    listed = hsmd("statement", "keys", "--profile", bob)
    assert listed.returncode == 0, listed.stderr
    assert [line.split()[:3] for line in listed.stdout.splitlines()[1:]] == [
        ["hsmd-statement", "signs", "yes"],
        ["statement-2027", "waits", "no"],
    ]
    assert "hsmd statement endorse statement-2027" in listed.stderr
    endorsed = hsmd(
        "statement", "endorse", "statement-2027", "--reason", "the yearly change", "--profile", ann
    )
    assert endorsed.returncode == 0, endorsed.stderr
    assert endorsed.stdout.startswith("hsmd statement-key v1\n")
    again = hsmd("statement", "endorse", "statement-2027", "--reason", "once more", "--profile", ann)
    assert again.returncode == Exit.USAGE and "signs already" in again.stderr
    daemon.stop()

    note = stated(daemon)
    unknown = verify(bob, note)
    assert unknown.returncode == Exit.UNKNOWN_KEY
    assert "`hsmd statement keys` fetches keys" in unknown.stderr

    daemon.start()
    # Ann enrolled before bob, so bob pinned her key with the daemon's; no client pinned the key of an operator who came later.
    listed = hsmd("statement", "keys", "--profile", bob, "--json")
    assert listed.returncode == 0, listed.stderr
    rows = json.loads(listed.stdout)["keys"]
    assert [(row["name"], row["state"], row["accepted"]) for row in rows] == [
        ("statement-2027", "signs", True),
        ("hsmd-statement", "former", True),
    ]
    lines = hsmd("statement", "keys", "--verifier-keys", "--profile", bob)
    assert lines.stdout.splitlines() == [row["verifier_key"] for row in rows]
    daemon.stop()
    assert verify(bob, note).returncode == 0
    keys = tmp_path / "keys"
    keys.write_text(lines.stdout)
    assert hsmd("statement", "verify", "-", "--key", keys, given=note).returncode == 0


def test_a_key_endorsed_by_an_operator_who_is_not_known_is_not_accepted(
    daemon: Daemon, tmp_path: Path
) -> None:
    daemon.start()
    bob = enrolled(daemon, tmp_path, "bob", "auditor")
    eve = enrolled(daemon, tmp_path, "eve")  # an operator since bob enrolled
    hsmd("key", "generate", "next", "--type", "p-256", "--purpose", "statement", "--profile", eve)
    assert hsmd("statement", "endorse", "next", "--reason", "because", "--profile", eve).returncode == 0
    listed = hsmd("statement", "keys", "--profile", bob)
    assert listed.returncode == Exit.PROBLEMS
    assert "does not follow from those pinned here" in listed.stderr
    daemon.stop()
    assert verify(bob, stated(daemon)).returncode == Exit.UNKNOWN_KEY
