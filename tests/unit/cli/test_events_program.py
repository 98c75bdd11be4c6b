"""The program of `hsmd events --exec`, and the file that its cursor is saved in."""

from __future__ import annotations

import json
import os
import pwd
import stat
from datetime import UTC, datetime
from pathlib import Path

import pytest

from hsmd.cli.base.errors import CommandError
from hsmd.cli.base.profile import Profile
from hsmd.cli.events import _cells, _deal_with
from hsmd.cli.events.cursor_file import CursorFile, default_file
from hsmd.cli.events.program import LONGEST_PAUSE_S, Program
from hsmd.protocol.messages import Event, missed_event, position_event
from tests.support.polling import wait_until

NOW = datetime(2030, 1, 2, tzinfo=UTC)


def event(number: int, kind: str = "test.event") -> Event:
    return Event(f"5f3a9c1e.{number}", kind, "www", NOW, {"n": number})


class Script:
    """A program in `directory` that notes each event and exits with what `body` says; `runs` are the events noted."""

    def __init__(self, directory: Path, body: str = "") -> None:
        self.notes = directory / "notes"
        self.path = directory / "program"
        self.path.write_text(f'#!/bin/sh\ncat >> "{self.notes}"\n{body}\n')
        self.path.chmod(0o700)
        self.slept: list[float] = []

    def program(self, arguments: str = "", timeout_s: float = 20.0) -> Program:
        return Program(f"{self.path} {arguments}", timeout_s, sleep=self.slept.append)

    @property
    def runs(self) -> list[str]:
        return [json.loads(line)["id"] for line in self.notes.read_text().splitlines()]


def test_the_program_gets_one_line_of_json_and_is_run_once_if_it_succeeds(tmp_path: Path) -> None:
    script = Script(tmp_path)
    script.program().run(event(1))
    assert json.loads(script.notes.read_text()) == {
        "id": "5f3a9c1e.1", "kind": "test.event", "subject": "www", "at": "2030-01-02T00:00:00Z", "payload": {"n": 1},
    }  # fmt: skip
    assert script.slept == []


def test_it_is_run_again_until_it_exits_with_0(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    script = Script(tmp_path, f'[ "$(wc -l < "{tmp_path}/notes")" -gt 2 ]')
    program = script.program()
    for number in (1, 2):
        program.run(event(number))
    assert script.runs == ["5f3a9c1e.1"] * 3 + ["5f3a9c1e.2"]
    assert script.slept == [1.0, 2.0]
    assert "event 5f3a9c1e.1 (test.event): program exited with 1; next run in 2 s" in capsys.readouterr().err


def test_the_pauses_end_at_the_longest(tmp_path: Path) -> None:
    script = Script(tmp_path, f'[ "$(wc -l < "{tmp_path}/notes")" -gt 9 ]')
    script.program().run(event(1))
    assert script.slept == [1, 2, 4, 8, 16, 32, 60, 60, 60]
    assert max(script.slept) == LONGEST_PAUSE_S


def test_a_run_that_takes_too_long_is_ended_with_all_that_it_started(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = f'[ "$(wc -l < "{tmp_path}/notes")" -gt 1 ] && exit 0'
    script = Script(tmp_path, f'{first}\nsleep 60 & echo $! > "{tmp_path}/child"; wait')
    script.program(timeout_s=0.5).run(event(1))
    assert len(script.runs) == 2
    assert "did not end within 0.5 s" in capsys.readouterr().err
    child = Path(f"/proc/{(tmp_path / 'child').read_text().strip()}/stat")
    assert not child.exists() or " Z " in child.read_text()


def test_a_program_that_ignores_its_end_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hsmd.cli.events.program.STOP_S", 0.2)
    first = f'[ "$(wc -l < "{tmp_path}/notes")" -gt 1 ] && exit 0'
    script = Script(tmp_path, f"{first}\ntrap '' TERM\nwhile :; do sleep 0.1; done")
    script.program(timeout_s=0.3).run(event(1))
    assert len(script.runs) == 2


def test_what_a_program_has_started_is_killed_though_it_ends_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise it would go on beside the next run."""
    monkeypatch.setattr("hsmd.cli.events.program.STOP_S", 0.5)
    first = f'[ "$(wc -l < "{tmp_path}/notes")" -gt 1 ] && exit 0'
    child = f'sh -c \'trap "" TERM; echo $$ > "{tmp_path}/child"; while :; do sleep 0.1; done\' &'
    script = Script(tmp_path, f"{first}\n{child}\nwait")
    script.program(timeout_s=1.0).run(event(1))
    assert len(script.runs) == 2
    number = (tmp_path / "child").read_text().strip()
    status = Path(f"/proc/{number}/stat")
    wait_until(lambda: not status.exists() or " Z " in status.read_text(), f"process {number} to end")


@pytest.mark.parametrize(("number", "words"), [(9, "SIGKILL"), (40, "signal 40")])
def test_a_program_that_a_signal_ends_is_run_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], number: int, words: str
) -> None:
    script = Script(tmp_path, f'[ "$(wc -l < "{tmp_path}/notes")" -gt 1 ] || kill -{number} $$')
    script.program().run(event(1))
    assert len(script.runs) == 2
    assert f"program was ended by {words}" in capsys.readouterr().err


def test_arguments_are_split_without_a_shell(tmp_path: Path) -> None:
    script = Script(tmp_path, f'printf "%s\\n" "$@" > "{tmp_path}/arguments"')
    script.program("'two words' $HOME ; '*' `id`").run(event(1))
    assert (tmp_path / "arguments").read_text().splitlines() == ["two words", "$HOME", ";", "*", "`id`"]


def test_its_environment_is_that_of_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HSMD_TEST_CONTROL", "1")
    script = Script(tmp_path, f'env > "{tmp_path}/environment"')
    script.program().run(event(1))
    seen = {line.partition("=")[0] for line in (tmp_path / "environment").read_text().splitlines()}
    assert "HSMD_TEST_CONTROL" in seen
    assert seen - set(os.environ) <= {"PWD", "SHLVL", "_", "OLDPWD", "COLUMNS", "LINES"}


@pytest.mark.parametrize("text", ["/no/such/program", "", "   ", "'unclosed", "no-such-program-anywhere x"])
def test_what_is_no_program_is_refused_before_anything_is_read(text: str) -> None:
    with pytest.raises(CommandError, match="--exec"):
        Program(text, 1.0)


def test_details_are_shown_as_people_read_them() -> None:
    payload = {
        "roles": ["owner", "node"],
        "at": "2030-01-02T03:04:05.678901Z",
        "key": "ab" * 32,
        "previous": "",
    }
    shown = _cells(Event("5f3a9c1e.1", "test.event", "www", NOW, payload))
    assert shown[-1] == "roles owner node, at 2030-01-02 03:04:05Z, key abababababababab"


# --- the cursor ---


def test_the_cursor_is_saved_for_the_owner_only_and_read_again(tmp_path: Path) -> None:
    path = tmp_path / "state" / "cursor"
    with CursorFile(path) as file:
        assert file.cursor == ""
        file.save("5f3a9c1e.7")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    with CursorFile(path) as file:
        assert file.cursor == "5f3a9c1e.7"


def test_one_process_at_a_time_uses_a_file(tmp_path: Path) -> None:
    with CursorFile(tmp_path / "cursor"), pytest.raises(CommandError, match="another `hsmd events` uses"):
        CursorFile(tmp_path / "cursor").__enter__()
    with CursorFile(tmp_path / "cursor"):
        pass


@pytest.mark.parametrize("path", ["/dev/null", "/"])
def test_what_is_no_file_is_never_replaced(path: str) -> None:
    with pytest.raises(CommandError, match="is not a file"):
        CursorFile(Path(path)).__enter__()


@pytest.mark.parametrize("content", [b"", b"two words", b"junk", b"5f3a9c1e", b"x" * 65, b"\xff" * 300])
def test_a_file_that_holds_something_else_is_refused_by_name(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "cursor").write_bytes(content)
    with pytest.raises(CommandError, match="holds no cursor"):
        CursorFile(tmp_path / "cursor").__enter__()


def test_daemons_users_and_programs_have_files_of_their_own(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    monkeypatch.delenv("SUDO_UID", raising=False)
    one, other = Profile("[2001:db8::1]:7440", "ann"), Profile("192.0.2.1:7440", "ann")
    commands = (["/usr/bin/python3", "a.py"], ["/usr/bin/python3", "b.py"], ["/bin/" + "x" * 300])
    files = {default_file(profile, command) for profile in (one, other) for command in commands}
    assert len(files) == 6
    assert default_file(one, commands[0]).name.startswith("_2001_db8_1_7440-ann-python3-")
    assert "a.py" not in default_file(one, commands[0]).name
    assert max(len(file.name) for file in files) < 128
    assert all(file.parent == tmp_path / "hsmd" / "events" for file in files)
    monkeypatch.setenv("SUDO_UID", "1000")
    own = Path(pwd.getpwuid(os.geteuid()).pw_dir) / ".local" / "state" / "hsmd" / "events"
    assert default_file(one, commands[0]).parent == own


def test_an_event_that_was_dealt_with_but_not_saved_comes_again(tmp_path: Path) -> None:
    seen: list[str] = []
    path = tmp_path / "cursor"

    class Killed(BaseException):
        pass

    def killed(cursor: str) -> None:
        raise Killed

    with CursorFile(path) as file:
        _deal_with(iter([event(1)]), frozenset(), lambda one: seen.append(one.id), file)
        file.save = killed  # type: ignore[method-assign]
        with pytest.raises(Killed):
            _deal_with(iter([event(2), event(3)]), frozenset(), lambda one: seen.append(one.id), file)
    with CursorFile(path) as file:
        assert file.cursor == "5f3a9c1e.1"
        _deal_with(iter([event(2), event(3)]), frozenset(), lambda one: seen.append(one.id), file)
    assert seen == [f"5f3a9c1e.{number}" for number in (1, 2, 2, 3)]


def test_a_position_is_saved_and_shown_to_nobody(tmp_path: Path) -> None:
    with CursorFile(tmp_path / "cursor") as file:
        _deal_with(iter([position_event("5f3a9c1e.80", NOW)]), frozenset(), pytest.fail, file)
    assert (tmp_path / "cursor").read_text() == "5f3a9c1e.80\n"


def test_other_kinds_are_passed_over_but_not_what_is_missing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    seen: list[str] = []
    with CursorFile(tmp_path / "cursor") as file:
        source = [event(1), event(2, "other"), missed_event("5f3a9c1e.8", "expired", NOW), event(9, "other")]
        _deal_with(iter(source), frozenset({"test.event"}), lambda one: seen.append(one.kind), file)
    assert seen == ["test.event", "events.missed"]
    assert (tmp_path / "cursor").read_text() == "5f3a9c1e.9\n"
    assert "events are missing here: they are older than what the daemon keeps" in capsys.readouterr().err
