"""Token health: a circuit breaker for each token, and the probes that alone may move it.

A probe is something the daemon asks of the token by itself: the start of a worker (find the token, log in, read the keys), or a
question to a worker that is ready (C_GetTokenInfo, C_GenerateRandom and C_GetAttributeValue of one key, see `loop`). It is
never a signature: every C_Sign that returns data has its attempt record. What a job of a caller does to a worker never moves the
breaker; it only makes the pool ask sooner.

    closed --failed, no worker left that passes--> open --a worker is started--> probing --failed--> open
    closed <--------------------------------- passed, in any state --------------------------------

While it is not closed, requests fail at once. The launcher then starts one worker at a time, at most `LONGEST_DELAY_S` of
`daemon.places` apart: a token that comes back is used within two seconds, so the pauses do not grow beyond one second.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import Enum
from typing import Any, Protocol

from hsmd.daemon.front.tokens.worker_channel import WorkerChannel
from hsmd.daemon.ipc.worker_messages import PROBE, Probed
from hsmd.protocol.frames import Kind, encode

SILENT_STARTS = 3
"""So many workers in a row that end before they are ready, without a word, are a failed probe."""
_PROBE_FRAME = encode(Kind.EVENT, 0, PROBE)


class BreakerState(Enum):
    """Closed lets requests through; the others fail them at once."""

    CLOSED = "closed"
    OPEN = "open"
    PROBING = "probing"


class CircuitBreaker:
    """The state machine. `reason` says why it is not closed."""

    __slots__ = ("reason", "state")

    def __init__(self) -> None:
        self.state = BreakerState.CLOSED
        self.reason = ""

    def begin(self) -> None:
        """A probe has begun."""
        if self.state is BreakerState.OPEN:
            self.state = BreakerState.PROBING

    def passed(self) -> None:
        """A probe was answered as a healthy token answers it."""
        self.state, self.reason = BreakerState.CLOSED, ""

    def failed(self, reason: str, *, others: bool) -> None:
        """A probe failed. `others`: there are workers that passed theirs, which speak for the token until they are asked."""
        if not others:
            self.state, self.reason = BreakerState.OPEN, reason


class HealthListener(Protocol):
    """Who wants to know how the token is; called from the event loop of the front."""

    def logged_in(self, token: str) -> None:
        """A worker is ready."""

    def login_refused(self, token: str, reason: str) -> None:
        """The token did not take the PIN, or its flags forbid to try."""

    def start_failed(self, token: str) -> None:
        """A worker ended before it was ready, for another reason."""

    def breaker_moved(self, token: str, closed: bool) -> None:
        """It closed, or it is not closed any more."""


class Nobody:
    """A listener that does nothing."""

    def logged_in(self, token: str) -> None: ...
    def login_refused(self, token: str, reason: str) -> None: ...
    def start_failed(self, token: str) -> None: ...
    def breaker_moved(self, token: str, closed: bool) -> None: ...


class TokenHealth:
    """The breaker of one token, with what drives it. Times are monotonic seconds."""

    def __init__(self, name: str, *, probe_s: float, listener: HealthListener, log: Any) -> None:
        """A worker that has been idle for `probe_s` is asked, so that no firewall forgets its connection to the token."""
        self._name = name
        self._probe_s = probe_s
        self._listener = listener
        self._log = log
        self._breaker = CircuitBreaker()
        self._silent = 0
        self.refusal = ""
        """Why the last login was refused; empty if it was not."""

    @property
    def state(self) -> BreakerState:
        """The breaker's."""
        return self._breaker.state

    @property
    def reason(self) -> str:
        """Why requests fail, if they do."""
        return self.refusal or self._breaker.reason

    @property
    def refusing(self) -> bool:
        """Whether requests are to fail at once."""
        return self._breaker.state is not BreakerState.CLOSED or bool(self.refusal)

    # --- starts ---

    def starting(self) -> None:
        """A worker was started."""
        self._breaker.begin()

    def ready(self) -> None:
        """It is ready: the token was found and took the PIN."""
        self._silent = 0
        self.refusal = ""
        self._pass()
        self._listener.logged_in(self._name)

    def not_started(self, reason: str, *, others: bool) -> None:
        """It said that it cannot start, or took too long."""
        self._silent = 0
        self._fail(reason, others)
        self._listener.start_failed(self._name)

    def ended_silently(self, *, others: bool) -> None:
        """It ended before it was ready and did not say why; somebody may have killed it."""
        self._silent += 1
        if self._silent >= SILENT_STARTS:
            self._fail("workers end before they are ready; see the daemon's log", others)
        self._listener.start_failed(self._name)

    def login_refused(self, reason: str) -> None:
        """It said that the PIN was refused: no fault of the token, and nothing to try again."""
        self.refusal = reason
        self._listener.login_refused(self._name, reason)

    # --- questions ---

    def ask(self, links: Iterable[WorkerChannel], now: float) -> None:
        """Have these workers probe the token, unless they are at it."""
        for link in links:
            if not link.probing:
                link.probing = True
                link.probed_at = now
                if not link.jobs:
                    link.moved_at = now
                link.send(_PROBE_FRAME)

    def ask_idle(self, links: Iterable[WorkerChannel], now: float) -> None:
        """Have those probe the token that have been idle for long."""
        self.ask(
            (
                link
                for link in links
                if now - max(link.moved_at if link.jobs else 0.0, link.probed_at) >= self._probe_s
            ),
            now,
        )

    def answered(self, link: WorkerChannel, event: Probed, *, others: bool) -> None:
        """A worker's answer; one that failed is given up by the pool before this is called."""
        link.probing = False
        if event.fault:
            self._fail(event.fault, others)
        else:
            self._pass()

    def stalled(self, *, others: bool) -> None:
        """A worker did not answer our question in time."""
        self._fail("the token does not answer a probe", others)

    # --- moving ---

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
