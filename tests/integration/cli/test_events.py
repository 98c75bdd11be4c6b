"""`hsmd events` against a real daemon: followers that were away, whose program fails, that are killed; cursors that expired."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from hsmd.cli.base import profile as profiles
from hsmd.daemon.store import Readers, Store
from hsmd.protocol import messages
from hsmd.protocol.roles import Role
from tests.support.daemon import AUDITOR, Daemon, running_daemon
from tests.support.polling import wait_until

OPERATORS = Readers(frozenset({Role.OPERATOR}))
NOW = datetime.now(UTC)


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    with running_daemon(tmp_path_factory.mktemp("events") / "daemon") as built:
        yield built


class Ledger:
    """The ledger behind the daemon, as another daemon would write it; times are those of an injected clock."""

    def __init__(self, daemon: Daemon) -> None:
        self.store = Store(daemon.store_url)
        self._daemon = daemon

    def append(self, *subjects: str, at: datetime = NOW, readers: Readers = OPERATORS) -> None:
        with self.store.write(versioned=False) as tx:
            for subject in subjects:
                tx.events.append("test.event", subject, readers=readers, payload={}, now=at)

    def prune(self, at: datetime) -> int:
        """What the daemons would remove at this time."""
        removed = 0
        while step := self.store.change(lambda tx: tx.events.prune(at), versioned=False):
            removed += step
        return removed

    @property
    def head(self) -> str:
        return str(self.store.query(lambda tx: tx.events.head()))


@pytest.fixture
def ledger(daemon: Daemon) -> Iterator[Ledger]:
    made = Ledger(daemon)
    yield made
    made.store.close()


class Command:
    """`hsmd events` as the operator, with files in `directory`; all processes are ended with the test."""

    def __init__(self, daemon: Daemon, directory: Path, ends: ExitStack) -> None:
        self.directory = directory
        self._ends = ends
        self.state = directory / "cursor"
        host, port = daemon.address
        given = profiles.Profile(
            f"{host}:{port}", "operator", daemon.directory / "operator", (daemon.notice["host_key"],)
        )
        self.profile = directory / "operator.toml"
        self.profile.write_text(profiles.render(given))

    def line(self, *options: str | Path) -> list[str]:
        return [
            sys.executable,
            "-m",
            "hsmd.cli",
            "events",
            *map(str, options),
            "--profile",
            str(self.profile),
        ]

    def run(self, *options: str | Path) -> subprocess.CompletedProcess[str]:
        return subprocess.run(self.line(*options), capture_output=True, text=True, timeout=60, check=False)

    def start(self, *options: str | Path) -> subprocess.Popen[bytes]:
        """Start it; its output goes to `output`, what it complains of to `errors`."""
        with (self.directory / "output").open("ab") as out, (self.directory / "errors").open("ab") as errors:
            child = subprocess.Popen(self.line(*options), stdout=out, stderr=errors)
        self._ends.callback(_end, child)
        return child

    def program(self, body: str = "") -> str:
        """A program that notes each event in `notes`, then does what `body` says."""
        path = self.directory / "program"
        path.write_text(f'#!/bin/sh\ncat >> "{self.directory}/notes"\n{body}\n')
        path.chmod(0o700)
        return str(path)

    def seen(self, file: str) -> list[dict[str, Any]]:
        path = self.directory / file
        lines = path.read_text().splitlines() if path.exists() else []
        return [json.loads(line) for line in lines if line.endswith("}")]

    def subjects(self, file: str) -> list[str]:
        return [one["subject"] for one in self.seen(file)]


def _end(child: subprocess.Popen[bytes]) -> None:
    if child.poll() is None:
        child.kill()
    child.wait()


@pytest.fixture
def command(daemon: Daemon, tmp_path: Path) -> Iterator[Command]:
    with ExitStack() as ends:
        yield Command(daemon, tmp_path, ends)


# --- what there is ---


def test_a_table_with_the_newest_last_and_a_cursor_to_go_on_from(command: Command, ledger: Ledger) -> None:
    begin = ledger.head
    ledger.append("a", "b")
    shown = command.run("--since", begin)
    rows = shown.stdout.splitlines()
    assert rows[0].split()[:4] == ["ID", "TIME", "KIND", "SUBJECT"]
    assert [row.split()[4] for row in rows[1:]] == ["a", "b"]
    assert f"hsmd events --since {ledger.head} --follow" in shown.stderr
    document = json.loads(command.run("--since", begin, "--json").stdout)
    assert [one["subject"] for one in document["events"]] == ["a", "b"]
    assert (document["cursor"], document["missed"]) == (ledger.head, "")
    nothing = command.run("--since", ledger.head)
    assert (nothing.returncode, nothing.stdout.strip()) == (0, "(none)")


def test_many_events_are_paged_and_kinds_are_filtered(command: Command, ledger: Ledger) -> None:
    begin = ledger.head
    ledger.append(*(str(number) for number in range(700)))
    ledger.append(*(str(number) for number in range(700, 1400)))
    document = json.loads(command.run("--since", begin, "--json").stdout)
    assert [one["subject"] for one in document["events"]] == [str(number) for number in range(1400)]
    document = json.loads(command.run("--since", begin, "--kind", "no.such", "--json").stdout)
    assert (document["events"], document["cursor"]) == ([], ledger.head)


def test_what_is_no_cursor_is_refused_in_the_users_words(command: Command) -> None:
    refused = command.run("--since", "yesterday")
    assert refused.returncode == 1
    assert "'yesterday' is not a cursor" in refused.stderr
    assert "--since" in refused.stderr


# --- must show: away for an hour, a program that fails twice, kills ---


def test_a_follower_that_was_away_for_an_hour_gets_each_event_once_and_in_order(
    command: Command, ledger: Ledger
) -> None:
    begin = ledger.head
    options = ("--follow", "--json", "--since", begin, "--state", command.state)
    follower = command.start(*options)
    ledger.append("before")
    wait_until(lambda: command.subjects("output") == ["before"], "the first event")
    wait_until(
        lambda: command.state.exists() and command.state.read_text().strip() == ledger.head, "its cursor"
    )
    follower.terminate()
    follower.wait(10)
    minutes = [f"minute {number}" for number in range(60)]
    for number, minute in enumerate(minutes):
        ledger.append(minute, at=NOW + timedelta(minutes=number))
    ledger.prune(NOW + timedelta(hours=1))
    command.start(*options)
    wait_until(lambda: len(command.seen("output")) >= 61, "the events of that hour")
    ledger.append("after")
    wait_until(lambda: command.subjects("output")[-1] == "after", "an event as it happens")
    assert command.subjects("output") == ["before", *minutes, "after"]
    assert len({one["id"] for one in command.seen("output")}) == 62
    assert "--since is for the first start" in (command.directory / "errors").read_text()


def test_a_program_that_fails_twice_gets_its_event_three_times_and_the_others_once(
    command: Command, ledger: Ledger
) -> None:
    begin = ledger.head
    ledger.append("a", "b")
    program = command.program(f'[ "$(wc -l < "{command.directory}/notes")" -gt 2 ]')
    command.start("--follow", "--since", begin, "--state", command.state, "--exec", program)
    wait_until(lambda: command.subjects("notes") == ["a", "a", "a", "b"], "four runs", 30)
    ledger.append("c")
    wait_until(lambda: command.subjects("notes")[4:] == ["c"], "the run for the next event")
    assert len({one["id"] for one in command.seen("notes")[:3]}) == 1
    wait_until(lambda: command.state.read_text().strip() == ledger.head, "the saved cursor")
    assert (command.directory / "errors").read_text().count("program exited with 1") == 2


def test_after_a_kill_while_the_program_runs_the_event_comes_again_with_the_same_id(
    command: Command, ledger: Ledger
) -> None:
    begin = ledger.head
    ledger.append("a", "b", "c")
    second = f'[ "$(wc -l < "{command.directory}/notes")" -eq 2 ] && exec sleep 60; exit 0'
    options = ("--follow", "--since", begin, "--state", command.state, "--exec", command.program(second))
    first = command.start(*options)
    wait_until(lambda: command.subjects("notes") == ["a", "b"], "the second run")
    first.send_signal(signal.SIGKILL)
    first.wait()
    command.start(*options)
    wait_until(lambda: len(command.seen("notes")) == 4, "the runs after the kill")
    assert command.subjects("notes") == ["a", "b", "b", "c"]
    assert command.seen("notes")[1] == command.seen("notes")[2]


def test_after_a_kill_between_success_and_saving_the_event_comes_again_with_the_same_id(
    command: Command, ledger: Ledger
) -> None:
    begin = ledger.head
    ledger.append("a", "b")
    # The first program succeeds; what would save that is dead by then.
    body = (
        f'[ "$(wc -l < "{command.directory}/notes")" -eq 1 ] || exit 0\ntrap "" TERM; kill -9 $PPID; exit 0'
    )
    options = ("--since", begin, "--state", command.state, "--exec", command.program(body))
    first = command.start(*options)
    assert first.wait(20) == -signal.SIGKILL
    assert not command.state.exists()
    assert command.run(*options).returncode == 0
    assert command.subjects("notes") == ["a", "a", "b"]
    assert command.seen("notes")[0] == command.seen("notes")[1]
    assert command.state.read_text().strip() == ledger.head


def test_a_program_does_not_outlive_a_killed_follower(command: Command, ledger: Ledger) -> None:
    begin = ledger.head
    ledger.append("a")
    program = command.program(f'echo $$ > "{command.directory}/pid"; exec sleep 60')
    child = command.start("--follow", "--since", begin, "--state", command.state, "--exec", program)
    pid = command.directory / "pid"
    wait_until(lambda: pid.exists() and pid.read_text().strip(), "the program")
    child.kill()
    child.wait()
    wait_until(lambda: not _runs(int(pid.read_text())), "its end")


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return " Z " not in Path(f"/proc/{pid}/stat").read_text()


def test_an_interrupt_ends_follower_and_program(command: Command, ledger: Ledger) -> None:
    begin = ledger.head
    ledger.append("a")
    program = command.program(f'echo $$ > "{command.directory}/pid"; exec sleep 60')
    child = command.start("--follow", "--since", begin, "--state", command.state, "--exec", program)
    pid = command.directory / "pid"
    wait_until(lambda: pid.exists() and pid.read_text().strip(), "the program")
    child.send_signal(signal.SIGINT)
    assert child.wait(10) == 130
    assert not _runs(int(pid.read_text()))
    assert not command.state.exists()


# --- cursors that expired ---


def test_an_expired_cursor_is_told_apart_from_an_empty_one(command: Command, ledger: Ledger) -> None:
    begin = ledger.head
    ledger.append("old")
    later = NOW + timedelta(days=91)
    ledger.append("young", at=later)
    assert ledger.prune(later) > 0
    shown = command.run("--since", begin)
    assert "events are missing here: they are older than what the daemon keeps" in shown.stderr
    assert shown.stdout.splitlines()[-1].split()[4] == "young"
    assert json.loads(command.run("--since", begin, "--json").stdout)["missed"] == "expired"
    empty = command.run("--since", ledger.head)
    assert "missing" not in empty.stderr
    command.run(
        "--since", begin, "--state", command.state, "--exec", command.program(), "--kind", "test.event"
    )
    assert [(one["kind"], one["payload"]) for one in command.seen("notes")] == [
        ("events.missed", {"reason": "expired"}),
        ("test.event", {}),
    ]
    command.state.write_text(f"{begin}\n")
    command.start("--follow", "--json", "--state", command.state)
    wait_until(lambda: [one["kind"] for one in command.seen("output")] == ["events.missed", "test.event"])
    missed = command.seen("output")[0]["id"]
    assert json.loads(command.run("--since", missed, "--json").stdout)["missed"] == ""


# --- whom events are shown to ---


def test_an_auditor_sees_nothing_that_is_for_others_alone(daemon: Daemon, ledger: Ledger) -> None:
    begin = ledger.head
    ledger.append("secret")
    page: messages.EventPage = daemon.ask(messages.EventsRead(begin), AUDITOR)
    assert (page.events, page.missed) == ([], "")
