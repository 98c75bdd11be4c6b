"""Supervisor: which workers run, when they are started again, and when not."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from hsmd.daemon.config import reader as configuration
from hsmd.daemon.config.settings import Config, TokenConfig
from hsmd.daemon.ipc.launcher_messages import AnyToFront, Starts, WorkerEnded, WorkerStarted
from hsmd.daemon.ipc.spawn import EXIT_LOGIN_REFUSED, EXIT_RECYCLE
from hsmd.daemon.ipc.worker_settings import WorkerSettings
from hsmd.daemon.launcher import supervisor as module
from hsmd.daemon.launcher.supervisor import LONGEST_DELAY_S, Supervisor, next_delay
from tests.unit.daemon.test_config import GOOD


@dataclass
class Process:
    status: int | None = None
    killed: bool = False

    def poll(self) -> int | None:
        return self.status

    def kill(self) -> None:
        self.killed = True
        self.status = -9


class Worker:
    """A spawned worker without a process."""

    def __init__(self, pid: int, settings: WorkerSettings) -> None:
        self.pid, self.settings, self.process, self.released = pid, settings, Process(), False
        self.socket, self.progress_fd = self, 99

    def fileno(self) -> int:
        return 98

    def release(self) -> None:
        self.released = True


class Yard:
    """Supervisor whose workers are made here."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.workers: list[Worker] = []
        self.started: list[WorkerStarted] = []
        self.fail = False
        self.ended: list[WorkerEnded] = []
        monkeypatch.setattr(module, "spawn_worker", self._spawn)
        self.config: Config = configuration.parse(f"{GOOD}\nspare = false", Path("/etc/hsmd/hsmd.toml"))
        self.places = Supervisor(self.config, lambda message, fds: self._note(message))
        self.name = self.config.tokens[0].name
        self.allow("all")

    def _note(self, message: AnyToFront) -> None:
        if isinstance(message, WorkerStarted):
            self.started.append(message)
        elif isinstance(message, WorkerEnded):
            self.ended.append(message)

    def allow(self, starts: str, *, cleared: bool = False) -> None:
        self.places.allow(self.name, Starts(starts), cleared=cleared)

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
def yard(monkeypatch: pytest.MonkeyPatch) -> Yard:
    return Yard(monkeypatch)


def test_each_token_has_its_workers_and_one_for_control(yard: Yard) -> None:
    yard.places.start_due(0.0)
    assert [each.control for each in yard.started] == [False, False, True]
    assert {each.generation for each in yard.started} == {1}
    assert all(worker.released for worker in yard.workers)
    assert yard.places.next_start() is None


def test_a_spare_is_one_more(yard: Yard) -> None:
    yard.places.apply(yard.with_token(spare=True))
    yard.places.start_due(0.0)
    assert [each.control for each in yard.started] == [False, False, False, True]


def test_a_worker_that_ended_is_replaced_with_growing_pauses(yard: Yard) -> None:
    yard.places.start_due(0.0)
    now, pauses = 0.0, []
    for _ in range(8):
        yard.workers[-1].process.status = EXIT_RECYCLE
        yard.places.reap(now, stopping=False)
        due = yard.places.next_start()
        assert due is not None
        pauses.append(round(due - now, 3))
        yard.places.start_due(due - 0.001)
        assert len(yard.running) == 2, "not before its time"
        now = due
        yard.places.start_due(now)
        assert len(yard.running) == 3
    assert pauses == [0.05, 0.1, 0.2, 0.4, 0.8, 1.0, 1.0, 1.0]
    yard.workers[-1].process.status = -11
    yard.places.reap(now + 60, stopping=False)
    assert yard.places.next_start() == now + 60, "one that lived long is replaced at once"


def test_a_refused_pin_stops_the_token_until_the_front_gives_leave(yard: Yard) -> None:
    yard.places.start_due(0.0)
    for worker in yard.workers:
        worker.process.status = EXIT_LOGIN_REFUSED
    yard.places.reap(1.0, stopping=False)
    yard.places.start_due(1e9)
    assert (len(yard.workers), yard.places.next_start()) == (3, None)
    yard.places.apply(yard.config)
    yard.places.start_due(1e9)
    assert yard.running == [], "a reload is no leave"
    yard.allow("one", cleared=True)
    yard.places.start_due(1e9)
    assert [worker.settings.token.cleared for worker in yard.workers[3:]] == [True]
    yard.allow("all")
    yard.places.start_due(1e9)
    assert [worker.settings.token.cleared for worker in yard.workers[3:]] == [True, False, False]


def test_an_operators_leave_is_good_for_one_start(yard: Yard) -> None:
    yard.allow("one", cleared=True)
    yard.places.start_due(0.0)
    yard.workers[0].process.status = EXIT_RECYCLE
    yard.places.reap(0.0, stopping=False)
    yard.places.start_due(1e9)
    assert [worker.settings.token.cleared for worker in yard.workers] == [True, False]


def test_a_token_that_is_away_gets_one_worker_at_a_time_and_all_when_it_is_back(yard: Yard) -> None:
    yard.allow("one")
    yard.places.start_due(0.0)
    assert [each.control for each in yard.started] == [False]
    now = 0.0
    for _ in range(8):
        yard.workers[-1].process.status = 4
        yard.places.reap(now, stopping=False)
        due = yard.places.next_start()
        assert due is not None
        assert due - now <= LONGEST_DELAY_S
        now = due
        yard.places.start_due(now)
        assert len(yard.running) == 1
    yard.allow("all")
    yard.places.start_due(now)
    assert len(yard.running) == 3


def test_nothing_is_started_without_leave(yard: Yard) -> None:
    yard.allow("none")
    yard.places.start_due(1e9)
    assert (yard.running, yard.places.next_start()) == ([], None)


def test_one_refused_pin_leaves_those_that_are_logged_in(yard: Yard) -> None:
    yard.places.start_due(0.0)
    yard.workers[0].process.status = EXIT_LOGIN_REFUSED
    yard.places.reap(1.0, stopping=False)
    yard.places.start_due(100.0)
    assert yard.running == [2, 3]


def test_an_unchanged_token_keeps_its_workers(yard: Yard) -> None:
    yard.places.start_due(0.0)
    yard.places.apply(configuration.parse(f"{GOOD}\nspare = false", Path("/etc/hsmd/hsmd.toml")))
    yard.places.start_due(1.0)
    assert yard.running == [1, 2, 3]
    assert len(yard.workers) == 3


@pytest.mark.parametrize(
    "changes", [{"workers": 1}, {"verify": "all"}, {"environment": {"X": "1"}}, {"stall_ms": 99}]
)
def test_a_changed_token_gets_new_workers_beside_the_old(yard: Yard, changes: dict[str, Any]) -> None:
    yard.places.start_due(0.0)
    changed = yard.with_token(**changes)
    yard.places.apply(changed)
    yard.places.start_due(1.0)
    assert yard.running[:3] == [1, 2, 3], "nobody is killed"
    assert {each.generation for each in yard.started[3:]} == {2}
    assert len(yard.workers) == 3 + changed.tokens[0].workers + 1
    yard.workers[0].process.status = 0  # the front sent it away
    yard.places.reap(2.0, stopping=False)
    yard.places.start_due(1e9)
    assert len(yard.workers) == 3 + changed.tokens[0].workers + 1, "retired workers are not replaced"


def test_a_wrong_pin_in_new_settings_leaves_the_old_running(yard: Yard) -> None:
    yard.places.start_due(0.0)
    yard.places.apply(yard.with_token(pin_file=Path("/other")))
    yard.places.start_due(1.0)
    for worker in yard.workers[3:]:
        worker.process.status = EXIT_LOGIN_REFUSED
    yard.places.reap(2.0, stopping=False)
    yard.places.start_due(1e9)
    assert yard.running == [1, 2, 3]
    yard.places.apply(yard.config)
    yard.allow("all")
    yard.places.start_due(1e9)
    assert len(yard.running) == 6, "back to the old settings is a change too"


def test_a_front_that_died_starts_everything_over_at_once(yard: Yard) -> None:
    yard.places.start_due(0.0)
    yard.places.start_over()
    assert yard.running == []
    yard.places.reap(0.1, stopping=False)
    assert yard.places.next_start() is None, "its successor has not given leave"
    yard.allow("all")
    assert yard.places.next_start() == 0.0
    yard.places.start_due(0.1)
    assert yard.running == [4, 5, 6]


def test_a_stalled_worker_is_killed_and_strangers_are_not(yard: Yard) -> None:
    yard.places.start_due(0.0)
    yard.places.replace(2)
    yard.places.replace(os.getpid())
    assert [worker.process.killed for worker in yard.workers] == [False, True, False]


def test_a_start_that_fails_is_tried_again(yard: Yard) -> None:
    yard.fail = True
    yard.places.start_due(0.0)
    assert yard.places.next_start() == 0.05
    yard.fail = False
    yard.places.start_due(0.05)
    assert len(yard.running) == 3


def test_the_front_hears_how_workers_end(yard: Yard) -> None:
    yard.places.start_due(0.0)
    yard.workers[0].process.status, yard.workers[1].process.status = -11, EXIT_RECYCLE
    yard.places.reap(1.0, stopping=False)
    assert [(each.pid, each.signal) for each in yard.ended] == [(1, 11), (2, 0)]


def test_delays_are_bounded() -> None:
    assert next_delay(100.0, 0.0) == LONGEST_DELAY_S
    assert next_delay(100.0, 1e9) == 0.0
