"""Token health: a circuit breaker for each token, which changes its state only on probes.

A probe is a check that the daemon makes by itself: the start of a worker (find the token, log in, read the keys), or a request to
a worker that is ready (C_GetTokenInfo, C_GenerateRandom and C_GetAttributeValue of one key, see `hsmd.daemon.worker.loop`). It is
never a signature: every C_Sign that returns data has its attempt record. What a caller's job does to a worker never changes the
state; it only makes the pool probe sooner.

    closed --failed, no worker left that passes--> open --a worker is started--> probing --failed--> open
    closed <--------------------------------- passed, in any state --------------------------------

While it is not closed, requests fail at once. The launcher then starts one worker at a time, at most `LONGEST_DELAY_S` of its
supervisor apart: the pauses never grow beyond one second, so that a token that comes back is used within two.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import Enum
from typing import Any, Protocol

from hsmd.daemon.front.tokens.worker_channel import WorkerChannel
from hsmd.daemon.ipc.worker_messages import PROBE, Probed
from hsmd.protocol.frames import Kind, encode

SILENT_STARTS = 3
"""This many workers in a row that end before they are ready, without a report, are a failed probe."""
_PROBE_FRAME = encode(Kind.EVENT, 0, PROBE)


class BreakerState(Enum):
    """While CLOSED requests are carried out; in the other states they fail at once."""

    CLOSED = "closed"
    OPEN = "open"
    PROBING = "probing"


class CircuitBreaker:
    """The state machine. `reason` is why it is not closed."""

    __slots__ = ("reason", "state")

    def __init__(self) -> None:
        self.state = BreakerState.CLOSED
        self.reason = ""

    def begin(self) -> None:
        """A probe has begun."""
        if self.state is BreakerState.OPEN:
            self.state = BreakerState.PROBING

    def passed(self) -> None:
        """A probe succeeded."""
        self.state, self.reason = BreakerState.CLOSED, ""

    def failed(self, reason: str, *, others: bool) -> None:
        """A probe failed. With `others` (workers whose last probe succeeded) the token stays healthy until those fail too."""
        if not others:
            self.state, self.reason = BreakerState.OPEN, reason


class HealthListener(Protocol):
    """What is told of a token's health; called on the event loop of the front."""

    def logged_in(self, token: str) -> None:
        """A worker is ready."""

    def login_refused(self, token: str, reason: str) -> None:
        """The token refused the PIN, or its flags forbid a try."""

    def start_failed(self, token: str) -> None:
        """A worker ended before it was ready, for another reason."""

    def breaker_moved(self, token: str, closed: bool) -> None:
        """The breaker closed, or opened."""


class NoListener:
    """A `HealthListener` that does nothing."""

    def logged_in(self, token: str) -> None: ...
    def login_refused(self, token: str, reason: str) -> None: ...
    def start_failed(self, token: str) -> None: ...
    def breaker_moved(self, token: str, closed: bool) -> None: ...


class TokenHealth:
    """The breaker of one token, and the probes that drive it. Times are monotonic seconds."""

    def __init__(self, name: str, *, probe_s: float, listener: HealthListener, log: Any) -> None:
        """A worker that has been idle for `probe_s` probes the token, so that no firewall drops its connection to it."""
        self._name = name
        self._probe_s = probe_s
        self._listener = listener
        self._log = log
        self._breaker = CircuitBreaker()
        self._silent = 0
        self.refusal = ""
        """Why the last login was refused; empty if it was not."""
        self.waiting = ""
        """Why no worker is started at present; empty if one is, or may be."""

    @property
    def state(self) -> BreakerState:
        """The breaker's state."""
        return self._breaker.state

    @property
    def reason(self) -> str:
        """Why requests fail; empty if they do not."""
        return self.refusal or self._breaker.reason or self.waiting

    @property
    def refusing(self) -> bool:
        """Whether requests are to fail at once."""
        return self._breaker.state is not BreakerState.CLOSED or bool(self.refusal)

    # --- starts ---

    def starting(self) -> None:
        """A worker was started."""
        self.waiting = ""
        self._breaker.begin()

    def ready(self) -> None:
        """A worker is ready: the token was found and accepted the PIN."""
        self._silent = 0
        self.refusal = ""
        self._pass()
        self._listener.logged_in(self._name)

    def not_started(self, reason: str, *, others: bool) -> None:
        """A worker reported that it cannot start, or took too long."""
        self._silent = 0
        self._fail(reason, others)
        self._listener.start_failed(self._name)

    def ended_silently(self, *, others: bool) -> None:
        """A worker ended before it was ready and did not report why; it may have been killed."""
        self._silent += 1
        if self._silent >= SILENT_STARTS:
            self._fail("workers end before they are ready; see the daemon's log", others)
        self._listener.start_failed(self._name)

    def login_refused(self, reason: str) -> None:
        """A worker reported that the PIN was refused: no fault of the token, and not to be tried again."""
        self.refusal = reason
        self._listener.login_refused(self._name, reason)

    # --- probes ---

    def ask(self, workers: Iterable[WorkerChannel], now: float) -> None:
        """Have these workers probe the token, except those that do already."""
        for worker in workers:
            if not worker.probing:
                worker.probing = True
                worker.probed_at = now
                if not worker.jobs:
                    worker.moved_at = now
                worker.send(_PROBE_FRAME)

    def ask_idle(self, workers: Iterable[WorkerChannel], now: float) -> None:
        """Have those workers probe the token that have been idle for `probe_s`."""
        self.ask(
            (
                worker
                for worker in workers
                if now - max(worker.moved_at if worker.jobs else 0.0, worker.probed_at) >= self._probe_s
            ),
            now,
        )

    def answered(self, worker: WorkerChannel, event: Probed, *, others: bool) -> None:
        """A worker answered a probe; the pool gives up a worker whose probe failed before it calls this."""
        worker.probing = False
        if event.fault:
            self._fail(event.fault, others)
        else:
            self._pass()

    def stalled(self, *, others: bool) -> None:
        """A worker did not answer a probe in time."""
        self._fail("the token does not answer a probe", others)

    # --- changes of state ---

    def _pass(self) -> None:
        before = self._breaker.state
        self._breaker.passed()
        if before is not BreakerState.CLOSED:
            self._log.info("token.breaker_closed", token=self._name)
            self._listener.breaker_moved(self._name, True)

    def _fail(self, reason: str, others: bool) -> None:
        before = self._breaker.state
        self._breaker.failed(reason, others=others)
        if before is BreakerState.CLOSED and self._breaker.state is BreakerState.OPEN:
            self._log.error("token.breaker_open", token=self._name, reason=reason)
            self._listener.breaker_moved(self._name, False)
