"""The state of an agent: its health for users and probes, and its numbers for Prometheus."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta

import hsmd
from hsmd.agent.cache import Cache, CachedKey
from hsmd.agent.config import AgentConfig
from hsmd.agent.sessions import Sessions
from hsmd.agent.upstream import Upstream
from hsmd.client.connection import Connection
from hsmd.client.endpoint import Endpoint
from hsmd.client.witness import LogRefused
from hsmd.errors import ConfigurationError, ErrorCode
from hsmd.health.agent import ABOUT_KEYS, AgentFacts, CertificateFacts, DaemonFacts, judge, severity_of
from hsmd.health.levels import FAILING, level_of
from hsmd.metrics.agent_families import AgentNumbers
from hsmd.protocol.messages import DaemonLink, Finding, Health
from hsmd.protocol.messages.enumerations import OUTCOME

PERFORMED = "performed"
ENDS_SOON = timedelta(days=14)
"""For keys of daemons of earlier releases, which do not tell that a certificate ends soon."""
CERTIFICATES_S = 1.0
"""How long the look at all certificates is valid: with thousands of keys it takes milliseconds."""


class AgentStatus:
    """One for each agent."""

    def __init__(
        self,
        config: AgentConfig,
        cache: Cache,
        upstream: Upstream,
        sessions: Sessions,
        *,
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._config = config
        self._cache = cache
        self._upstream = upstream
        self._sessions = sessions
        self._clock = clock
        self._now = now
        self._started_at = now()
        self._compared_at: float | None = None
        self._looked_at = -CERTIFICATES_S
        self._look = _Look()
        self._outcomes: Counter[int] = Counter()
        self.cut = False
        """Whether the daemon has more keys for this client than an agent keeps."""

    def apply(self, config: AgentConfig) -> None:
        """Use other settings from now on."""
        self._config = config

    def compared(self) -> None:
        """The keys have been compared with those of a daemon."""
        self._compared_at = self._clock()

    def choose_daemons(self) -> None:
        """Have requests go to daemons that can use the keys of this agent, if there are such."""
        facts = self._facts()
        failing = [
            connection
            for connection, daemon in zip(self._upstream.connections, facts.daemons, strict=True)
            if daemon.connected and severity_of(daemon, facts.tokens) == FAILING
        ]
        self._upstream.avoid(failing)

    def count(self, code: int) -> None:
        """A key operation of a local user ended with this error code, or with 0: it was performed."""
        self._outcomes[code] += 1
        if code:
            self._upstream.health.failed(code)

    # --- health ---

    def health(self, *, keys: bool = True) -> Health:
        """The present health. Without `keys`, findings that name keys are shown without their texts."""
        self._upstream.health.look()
        facts = self._facts()
        findings = judge(facts)
        shown = [
            each if keys or each.condition not in ABOUT_KEYS else Finding(each.condition, each.severity)
            for each in findings
        ]
        return Health(
            level_of(findings),
            shown,
            client=facts.client,
            version=hsmd.__version__,
            started_at=self._started_at,
            daemons=self._links(),
            keys=facts.keys,
            compared_s=self._compared_s(),
        )

    def _facts(self) -> AgentFacts:
        look = self._looked()
        names = self._cache.names()
        return AgentFacts(
            client=self._config.client,
            daemons=tuple(self._daemon(each) for each in self._upstream.connections),
            keys=len(names),
            tokens=look.tokens,
            complete=self._cache.complete,
            not_granted=tuple(
                sorted(name for name in self._config.rules.by_key if self._cache.get(name) is None)
            ),
            cut=self.cut,
            stopping=self._sessions.draining,
            certificates=look.certificates,
        )

    def _daemon(self, connection: Connection) -> DaemonFacts:
        problem = connection.problem
        connected = connection.available
        health = self._upstream.health.of(connection)
        return DaemonFacts(
            _address(connection),
            connected,
            not connected and isinstance(problem, (LogRefused, ConfigurationError)),
            "" if connected or problem is None else problem.text,
            "" if health is None else health.level,
            () if health is None else tuple(health.findings),
        )

    def _links(self) -> list[DaemonLink]:
        in_use = self._upstream.available
        links = []
        for connection in self._upstream.connections:
            facts = self._daemon(connection)
            state = "away"
            if facts.connected:
                state = "in-use" if connection is in_use else "connected"
            elif facts.refused:
                state = "refused"
            links.append(DaemonLink(facts.address, state, facts.problem, facts.level))
        return links

    def _looked(self) -> _Look:
        if self._clock() - self._looked_at >= CERTIFICATES_S:
            self._look = _Look.at(self._now(), self._keys())
            self._looked_at = self._clock()
        return self._look

    def _keys(self) -> Iterator[CachedKey]:
        for name in self._cache.names():
            key = self._cache.get(name)
            if key is not None:
                yield key

    def _compared_s(self) -> int:
        return -1 if self._compared_at is None else round(self._clock() - self._compared_at)

    # --- numbers ---

    def numbers(self) -> AgentNumbers:
        """All numbers for the metrics."""
        health = self.health()
        look = self._looked()
        outcomes = dict.fromkeys(OUTCOME.values, 0)
        for code, count in self._outcomes.items():
            outcomes[_outcome(code)] += count
        return AgentNumbers(
            health,
            connections=len(self._sessions),
            open_requests=self._sessions.open_requests,
            outcomes=outcomes,
            certificates=look.certificates.stored,
            certificates_ended=len(look.certificates.ended),
            certificates_ending=len(look.certificates.ending),
            first_end=look.first_end,
        )


class _Look:
    """What a look at all keys has shown: their tokens, and their certificates at that time."""

    def __init__(
        self,
        tokens: frozenset[str] = frozenset(),
        certificates: CertificateFacts = CertificateFacts(),  # noqa: B008  frozen
        first_end: datetime | None = None,
    ) -> None:
        self.tokens = tokens
        self.certificates = certificates
        self.first_end = first_end

    @classmethod
    def at(cls, now: datetime, keys: Iterator[CachedKey]) -> _Look:
        tokens: set[str] = set()
        ended, ending, ends = [], [], []
        for key in keys:
            tokens.add(key.info.token)
            end = key.info.certificate_not_after
            if end is None:
                continue
            ends.append(end)
            state = key.info.certificate_state
            if end <= now:
                ended.append(key.info.name)
            elif state == "ending" or (not state and end - now < ENDS_SOON):
                ending.append(key.info.name)
        facts = CertificateFacts(len(ends), tuple(ended), tuple(ending))
        return cls(frozenset(tokens), facts, min(ends, default=None))


def _address(connection: Connection) -> str:
    endpoint = connection.endpoint
    return endpoint.address if isinstance(endpoint, Endpoint) else str(endpoint)


def _outcome(code: int) -> str:
    """The name of an error code in metrics, as in the daemon's."""
    if not code:
        return PERFORMED
    try:
        return ErrorCode(code).name.lower().replace("_", "-")
    except ValueError:  # of a later release
        return "internal"
