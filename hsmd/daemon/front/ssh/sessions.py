"""All open sessions: opened for the channels of clients, checked, drained and closed together."""

from __future__ import annotations

import time
from collections.abc import Callable

from hsmd.daemon.config.settings import LimitsConfig
from hsmd.daemon.front.access.identity import Identity
from hsmd.daemon.front.signing.service import KeyService
from hsmd.daemon.front.ssh.session import Dispatch, Following, Session, Transport
from hsmd.system.intake import Intake


class Sessions:
    """The open sessions, all with the same service. `len` is their number."""

    def __init__(
        self,
        service: KeyService,
        limits: LimitsConfig,
        *,
        following: Following,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._service = service
        self._following = following
        self._limits = limits
        self._clock = clock
        self._open: set[Session] = set()

    def __len__(self) -> int:
        return len(self._open)

    def apply(self, limits: LimitsConfig) -> None:
        """Use these limits for sessions that are opened from now on."""
        self._limits = limits

    def open(self, dispatch: Dispatch, identity: Identity, intake: Intake, transport: Transport) -> Session:
        """A new session of a client, whose control requests go to `dispatch`."""
        session = Session(
            identity,
            transport,
            intake=intake,
            service=self._service,
            dispatch=dispatch,
            following=self._following,
            max_open_requests=self._limits.open_requests,
            clock=self._clock,
            ended=self._open.discard,
        )
        self._open.add(session)
        return session

    def check(self) -> None:
        """Drop peers that have left frames unfinished or answers unread for too long; call it about every second."""
        now = self._clock()
        for session in list(self._open):
            session.check(now)

    def drain(self, grace_ms: int) -> None:
        """Announce to all peers that this server stops."""
        for session in list(self._open):
            session.drain(grace_ms)

    @property
    def idle(self) -> bool:
        """Whether no request is open in any session."""
        return all(session.idle for session in self._open)

    def close(self) -> None:
        """Close all sessions once what is written has been sent."""
        for session in list(self._open):
            session.close()
