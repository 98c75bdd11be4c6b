"""The supervisor: which workers run, and when an ended worker is started again."""

from __future__ import annotations

import os
import signal
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from msgspec import structs

from hsmd.daemon.config import reader as configuration
from hsmd.daemon.config.settings import Config, TokenConfig
from hsmd.daemon.ipc.launcher_messages import AnyToFront, Starts, WorkerEnded, WorkerStarted
from hsmd.daemon.ipc.spawn import EXIT_LOGIN_REFUSED, EXIT_RECYCLE, EXIT_TOKEN_UNAVAILABLE
from hsmd.daemon.ipc.worker_settings import WorkerSettings
from hsmd.daemon.launcher import supervisor as module
from hsmd.daemon.launcher.backoff import LONGEST_DELAY_S, next_delay
from hsmd.daemon.launcher.supervisor import END_S, Supervisor
from hsmd.system.repetition import Repetition
from tests.support.daemon_config import GOOD


@dataclass
class Process:
    status: int | None = None
    killed: bool = False
    logging_in: bool = False
    """Whether it holds SIGTERM back."""

    def poll(self) -> int | None:
        return self.status

    def send_signal(self, number: int) -> None:
        if number == signal.SIGTERM and not self.logging_in:
            self.killed = True
            self.status = -number

    def kill(self) -> None:
        self.killed = True
        self.status = -9


class Worker:
    """A spawned worker with a fake process."""

    def __init__(self, pid: int, settings: WorkerSettings) -> None:
        self.pid, self.settings, self.process, self.released = pid, settings, Process(), False
        self.socket, self.progress_fd = self, 99

    def fileno(self) -> int:
        return 98

    def release(self) -> None:
        self.released = True


class Harness:
    """A supervisor with fake workers."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.workers: list[Worker] = []
        self.started: list[WorkerStarted] = []
        self.fail = False
        self.ended: list[WorkerEnded] = []
        monkeypatch.setattr(module, "spawn_worker", self._spawn)
        self.config: Config = configuration.parse(f"{GOOD}\nspare = false", Path("/etc/hsmd/hsmd.toml"))
        self.supervisor = Supervisor(self.config, lambda message, fds: self._note(message))
        self.name = self.config.tokens[0].name
        self.permit("all")

    def _note(self, message: AnyToFront) -> None:
        if isinstance(message, WorkerStarted):
            self.started.append(message)
        elif isinstance(message, WorkerEnded):
            self.ended.append(message)

    def permit(self, starts: str, *, cleared: bool = False) -> None:
        self.supervisor.permit(self.name, Starts(starts), cleared=cleared)

    def _spawn(self, settings: WorkerSettings, *, environment: dict[str, str]) -> Worker:
        if self.fail:
            raise OSError(12, "Cannot allocate memory")
        self.workers.append(Worker(len(self.workers) + 1, settings))
        return self.workers[-1]

    def with_token(self, **changes: Any) -> Config:
        token: TokenConfig = replace(self.config.tokens[0], **changes)
        return replace(self.config, tokens=(token,))

    @property
    def running(self) -> list[int]:
        return [worker.pid for worker in self.workers if worker.process.status is None]


@pytest.fixture
def harness(monkeypatch: pytest.MonkeyPatch) -> Harness:
    return Harness(monkeypatch)


def test_each_token_has_its_workers_and_one_for_control(harness: Harness) -> None:
    harness.supervisor.start_due(0.0)
    assert [each.control for each in harness.started] == [False, False, True]
    assert {each.generation for each in harness.started} == {1}
    assert all(worker.released for worker in harness.workers)
    assert harness.supervisor.next_start() is None


def test_a_spare_is_one_more_worker(harness: Harness) -> None:
    harness.supervisor.apply(harness.with_token(spare=True))
    harness.supervisor.start_due(0.0)
    assert [each.control for each in harness.started] == [False, False, False, True]


def test_a_worker_that_ended_is_replaced_with_growing_pauses(harness: Harness) -> None:
    harness.supervisor.start_due(0.0)
    now, pauses = 0.0, []
    for _ in range(8):
        harness.workers[-1].process.status = EXIT_RECYCLE
        harness.supervisor.reap(now, stopping=False)
        due = harness.supervisor.next_start()
        assert due is not None
        pauses.append(round(due - now, 3))
        harness.supervisor.start_due(due - 0.001)
        assert len(harness.running) == 2, "no worker is started before it is due"
        now = due
        harness.supervisor.start_due(now)
        assert len(harness.running) == 3
    assert pauses == [0.05, 0.1, 0.2, 0.4, 0.8, 1.0, 1.0, 1.0]
    harness.workers[-1].process.status = -11
    harness.supervisor.reap(now + 60, stopping=False)
    assert harness.supervisor.next_start() == now + 60, "a worker that ran for long is replaced at once"


def test_a_refused_pin_stops_the_token_until_the_front_permits_starts(harness: Harness) -> None:
    harness.supervisor.start_due(0.0)
    for worker in harness.workers:
        worker.process.status = EXIT_LOGIN_REFUSED
    harness.supervisor.reap(1.0, stopping=False)
    harness.supervisor.start_due(1e9)
    assert (len(harness.workers), harness.supervisor.next_start()) == (3, None)
    harness.supervisor.apply(harness.config)
    harness.supervisor.start_due(1e9)
    assert harness.running == [], "a reload does not permit starts"
    harness.permit("one", cleared=True)
    harness.supervisor.start_due(1e9)
    assert [worker.settings.token.cleared for worker in harness.workers[3:]] == [True]
    harness.permit("all")
    harness.supervisor.start_due(1e9)
    assert [worker.settings.token.cleared for worker in harness.workers[3:]] == [True, False, False]


@pytest.mark.parametrize("end", ["logged in", "ended", "stopped"])
def test_a_token_is_settled_when_it_is_known_whether_it_can_be_used(harness: Harness, end: str) -> None:
    harness.supervisor = Supervisor(harness.config, lambda message, fds: None)
    assert not harness.supervisor.settled
    harness.permit("one")
    harness.supervisor.start_due(0.0)
    assert not harness.supervisor.settled
    if end == "ended":
        harness.workers[-1].process.status = EXIT_TOKEN_UNAVAILABLE
        harness.supervisor.reap(1.0, stopping=False)
    else:
        harness.permit("all" if end == "logged in" else "none")
    assert harness.supervisor.settled


def test_one_start_is_of_a_worker_that_is_missing(harness: Harness) -> None:
    """Others are logged in: the first slot needs no start."""
    harness.supervisor.start_due(0.0)
    harness.workers[1].process.status = harness.workers[2].process.status = EXIT_LOGIN_REFUSED
    harness.supervisor.reap(1.0, stopping=False)
    harness.permit("one", cleared=True)
    harness.supervisor.start_due(1e9)
    assert [each.control for each in harness.started[3:]] == [False]
    harness.permit("one")
    harness.supervisor.start_due(1e9)
    assert len(harness.running) == 2, "one at a time"
    harness.permit("all")
    harness.supervisor.start_due(1e9)
    assert len(harness.running) == 3


def test_an_operators_clearance_holds_for_one_start(harness: Harness) -> None:
    harness.permit("one", cleared=True)
    harness.supervisor.start_due(0.0)
    harness.workers[0].process.status = EXIT_RECYCLE
    harness.supervisor.reap(0.0, stopping=False)
    harness.supervisor.start_due(1e9)
    assert [worker.settings.token.cleared for worker in harness.workers] == [True, False]


def test_an_unreachable_token_gets_one_worker_at_a_time_until_it_is_back(
    harness: Harness,
) -> None:
    harness.permit("one")
    harness.supervisor.start_due(0.0)
    assert [each.control for each in harness.started] == [False]
    now = 0.0
    for _ in range(8):
        harness.workers[-1].process.status = 4
        harness.supervisor.reap(now, stopping=False)
        due = harness.supervisor.next_start()
        assert due is not None
        assert due - now <= LONGEST_DELAY_S
        now = due
        harness.supervisor.start_due(now)
        assert len(harness.running) == 1
    harness.permit("all")
    harness.supervisor.start_due(now)
    assert len(harness.running) == 3


def test_nothing_is_started_without_permission(harness: Harness) -> None:
    harness.permit("none")
    harness.supervisor.start_due(1e9)
    assert (harness.running, harness.supervisor.next_start()) == ([], None)


def test_a_refused_pin_of_one_worker_leaves_the_others_running(harness: Harness) -> None:
    harness.supervisor.start_due(0.0)
    harness.workers[0].process.status = EXIT_LOGIN_REFUSED
    harness.supervisor.reap(1.0, stopping=False)
    harness.supervisor.start_due(100.0)
    assert harness.running == [2, 3]


def test_an_unchanged_token_keeps_its_workers(harness: Harness) -> None:
    harness.supervisor.start_due(0.0)
    harness.supervisor.apply(configuration.parse(f"{GOOD}\nspare = false", Path("/etc/hsmd/hsmd.toml")))
    harness.supervisor.start_due(1.0)
    assert harness.running == [1, 2, 3]
    assert len(harness.workers) == 3


@pytest.mark.parametrize(
    "changes", [{"workers": 1}, {"verify": "all"}, {"environment": {"X": "1"}}, {"stall_ms": 99}]
)
def test_a_changed_token_gets_new_workers_beside_the_old_ones(
    harness: Harness, changes: dict[str, Any]
) -> None:
    harness.supervisor.start_due(0.0)
    changed = harness.with_token(**changes)
    harness.supervisor.apply(changed)
    harness.supervisor.start_due(1.0)
    assert harness.running[:3] == [1, 2, 3], "no worker is killed"
    assert {each.generation for each in harness.started[3:]} == {2}
    assert len(harness.workers) == 3 + changed.tokens[0].workers + 1
    harness.workers[0].process.status = 0  # the front closed its socket
    harness.supervisor.reap(2.0, stopping=False)
    harness.supervisor.start_due(1e9)
    assert len(harness.workers) == 3 + changed.tokens[0].workers + 1, "retired workers are not replaced"


def test_a_wrong_pin_in_new_settings_leaves_the_old_workers_running(harness: Harness) -> None:
    harness.supervisor.start_due(0.0)
    settings = structs.replace(harness.config.tokens[0].settings, pin_file="/other")
    harness.supervisor.apply(harness.with_token(settings=settings))
    harness.supervisor.start_due(1.0)
    for worker in harness.workers[3:]:
        worker.process.status = EXIT_LOGIN_REFUSED
    harness.supervisor.reap(2.0, stopping=False)
    harness.supervisor.start_due(1e9)
    assert harness.running == [1, 2, 3]
    harness.supervisor.apply(harness.config)
    harness.permit("all")
    harness.supervisor.start_due(1e9)
    assert len(harness.running) == 6, "a return to the old settings is a change too"


def test_all_workers_are_replaced_after_the_front_ended(harness: Harness) -> None:
    harness.supervisor.start_due(0.0)
    harness.supervisor.start_over(0.0)
    assert harness.running == []
    harness.supervisor.reap(0.1, stopping=False)
    assert harness.supervisor.next_start() is None, "the next front has not permitted any start"
    harness.permit("all")
    assert harness.supervisor.next_start() == 0.0
    harness.supervisor.start_due(0.1)
    assert harness.running == [4, 5, 6]


def test_a_stalled_worker_is_killed_and_other_processes_are_not(harness: Harness) -> None:
    harness.supervisor.start_due(0.0)
    harness.supervisor.replace(2, 1.0)
    harness.supervisor.replace(os.getpid(), 1.0)
    assert [worker.process.killed for worker in harness.workers] == [False, True, False]


def test_a_login_is_not_cut_off_unless_it_hangs(harness: Harness) -> None:
    """It may be SoftHSM's, which leaves an empty token behind; the next front's workers wait for the lock of the start."""
    harness.supervisor.start_due(0.0)
    harness.workers[1].process.logging_in = True
    harness.supervisor.start_over(10.0)
    harness.permit("all")
    harness.supervisor.start_due(10.0)
    harness.supervisor.reap(10.0 + END_S - 0.1, stopping=False)
    assert harness.running == [2, 4, 5, 6]
    assert harness.supervisor.next_kill() == 10.0 + END_S
    harness.supervisor.reap(10.0 + END_S, stopping=False)
    assert (harness.running, harness.supervisor.next_kill()) == ([4, 5, 6], None)
    harness.supervisor.reap(20.0, stopping=False)
    assert {each.pid for each in harness.ended} == {1, 2, 3}


def test_a_failed_start_is_retried(harness: Harness) -> None:
    harness.fail = True
    harness.supervisor.start_due(0.0)
    assert harness.supervisor.next_start() == 0.05
    harness.fail = False
    harness.supervisor.start_due(0.05)
    assert len(harness.running) == 3


def test_the_front_is_informed_how_workers_end(harness: Harness) -> None:
    harness.supervisor.start_due(0.0)
    harness.workers[0].process.status, harness.workers[1].process.status = -11, EXIT_RECYCLE
    harness.supervisor.reap(1.0, stopping=False)
    assert [(each.pid, each.signal) for each in harness.ended] == [(1, 11), (2, 0)]


def test_delays_are_bounded() -> None:
    assert next_delay(100.0, 0.0) == LONGEST_DELAY_S
    assert next_delay(100.0, 1e9) == 0.0


class Log:
    """The lines of a supervisor, whose clock is `now`."""

    def __init__(self, harness: Harness, monkeypatch: pytest.MonkeyPatch) -> None:
        self.lines: list[tuple[str, int]] = []
        self.now = 0.0
        harness.supervisor._repeated = Repetition(lambda: self.now)
        for level in ("info", "warning", "error", "critical"):
            monkeypatch.setattr(module.log, level, self._note)

    def _note(self, event: str, **fields: Any) -> None:
        self.lines.append((event, fields.get("count", 1)))

    def stands_for(self, event: str) -> int:
        return sum(count for name, count in self.lines if name == event)


@pytest.fixture
def log(harness: Harness, monkeypatch: pytest.MonkeyPatch) -> Log:
    return Log(harness, monkeypatch)


@pytest.mark.parametrize("starts", ["one", "all"])
def test_a_minute_without_the_token_is_a_few_lines(harness: Harness, log: Log, starts: str) -> None:
    """A worker tells the front, which gives it up; it may have ended by then, or be ended by that."""
    for second in range(60):
        log.now = float(second)
        harness.permit(starts)
        harness.supervisor.start_due(log.now)
        harness.permit("none" if starts == "one" else "all")
        for worker in harness.workers[-3:]:
            if starts == "all" or second % 2:
                worker.process.status = EXIT_TOKEN_UNAVAILABLE
            if starts == "one":
                harness.supervisor.replace(worker.pid, log.now)
        harness.supervisor.reap(log.now, stopping=False)
    assert len(harness.workers) >= 50
    assert len(log.lines) <= 21, "seven of a kind: after 0, 1, 3, 7, 15, 31 seconds and the rest"
    assert log.stands_for("worker.ended") > 30
    assert log.stands_for("worker.replaced") > (30 if starts == "one" else -1)


def test_a_worker_that_cannot_be_started_is_not_a_line_each_second(harness: Harness, log: Log) -> None:
    harness.fail = True
    for second in range(60):
        log.now = float(second)
        harness.supervisor.start_due(log.now)
    assert len(log.lines) <= 7
    assert log.stands_for("worker.not_started") > 60


def test_each_worker_is_logged_that_is_given_up_while_the_token_works(harness: Harness, log: Log) -> None:
    harness.supervisor.start_due(0.0)
    for worker in list(harness.workers):
        harness.supervisor.replace(worker.pid, 0.0)
    harness.supervisor.reap(0.0, stopping=False)
    assert log.lines == [("worker.replaced", 1)] * 3 + [("worker.ended", 1)] * 3
