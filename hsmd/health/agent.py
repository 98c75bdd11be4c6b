"""The findings about an agent: what makes handshakes on its host fail, and what will unless an operator acts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from hsmd.health.levels import DEGRADED, FAILING, PARTIAL, WELL, ordered
from hsmd.protocol.messages import Finding

CONDITIONS = (
    "stopping",
    "no-daemon",
    "daemon-away",
    "daemon-failing",
    "log-refused",
    "no-key",
    "key-not-granted",
    "keys-left-out",
    "certificate-ended",
    "certificate-ending",
)
"""What findings about an agent there can be."""
ABOUT_KEYS = frozenset({"key-not-granted", "certificate-ended", "certificate-ending"})
"""Those that name keys, and are shown to users only that may see all keys."""
OF_CERTIFICATES = frozenset({"certificate-ended", "certificate-ending"})
"""A daemon's findings about these are about the keys of all its clients; an agent judges those of its own."""
OF_TOKENS = frozenset({"token-away", "token-starting", "pin-refused"})
MOST_NAMED = 3
"""Keys that a finding names."""
MAX_TEXT = 300


@dataclass(frozen=True, slots=True)
class DaemonFacts:
    """A daemon of the agent's configuration."""

    address: str
    connected: bool
    refused: bool = False
    """Whether its log is not accepted."""
    problem: str = ""
    """Why it is not connected."""
    level: str = ""
    """What it says of itself; empty if it does not."""
    findings: tuple[Finding, ...] = ()


@dataclass(frozen=True, slots=True)
class CertificateFacts:
    """The certificates of the agent's keys: how many there are, and the names of keys whose certificate ended or ends soon."""

    stored: int = 0
    ended: tuple[str, ...] = ()
    ending: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class AgentFacts:
    """What an agent knows."""

    client: str
    daemons: tuple[DaemonFacts, ...]
    keys: int
    tokens: frozenset[str] = frozenset()
    """Those that hold its keys."""
    complete: bool = True
    """Whether the keys were fetched at least once."""
    not_granted: tuple[str, ...] = ()
    """Keys that agent.toml names, and that are not among its keys."""
    cut: bool = False
    """Whether the daemon has more keys for it than it keeps."""
    stopping: bool = False
    certificates: CertificateFacts = CertificateFacts()


def judge(facts: AgentFacts) -> list[Finding]:
    """The findings that follow, the worst first."""
    return ordered((*_agent(facts), *_daemons(facts), *_keys(facts), *_certificates(facts.certificates)))


def severity_of(daemon: DaemonFacts, tokens: frozenset[str]) -> str:
    """How much of what this daemon reports concerns an agent whose keys are in these tokens; `well` for nothing."""
    hit = {each.subject for each in daemon.findings if each.condition in OF_TOKENS}
    if any(
        each.severity == FAILING and each.condition not in OF_TOKENS | OF_CERTIFICATES
        for each in daemon.findings
    ):
        return FAILING
    if tokens:
        hit &= tokens
        return FAILING if hit == tokens else PARTIAL if hit else WELL
    severities = {each.severity for each in daemon.findings if each.condition in OF_TOKENS}
    return FAILING if FAILING in severities else PARTIAL if severities else WELL


def _agent(facts: AgentFacts) -> Iterator[Finding]:
    if facts.stopping:
        yield Finding(
            "stopping",
            FAILING,
            text="the agent is stopping and accepts nothing new",
            next_step="start it again: systemctl start hsmd-agent, or hsmd agent run",
        )


def _daemons(facts: AgentFacts) -> Iterator[Finding]:
    connected = [each for each in facts.daemons if each.connected]
    for daemon in facts.daemons:
        if daemon.refused:
            yield Finding(
                "log-refused",
                DEGRADED if connected else FAILING,
                daemon.address,
                _bounded(daemon.problem),
                "find out why on the key host (hsmd audit verify); after a restore from a backup, an operator runs"
                " hsmd audit discontinuity",
            )
        elif connected and not daemon.connected:
            yield Finding(
                "daemon-away",
                DEGRADED,
                daemon.address,
                f"the daemon {daemon.address} is not connected{_because(daemon.problem)}",
                _reach(facts.client),
            )
    if not connected:
        reasons = [_bounded(each.problem or f"{each.address}: not tried yet") for each in facts.daemons]
        text = "; ".join(reasons[:MOST_NAMED]) or "agent.toml names none"
        yield Finding(
            "no-daemon", FAILING, text=f"no daemon is connected: {text}", next_step=_reach(facts.client)
        )
    yield from _failing_daemons(connected, facts)


def _failing_daemons(connected: Sequence[DaemonFacts], facts: AgentFacts) -> Iterator[Finding]:
    """A daemon that reports faults matters as much as there is no better one."""
    severities = [severity_of(each, facts.tokens) for each in connected]
    best = DEGRADED if WELL in severities else PARTIAL if PARTIAL in severities else FAILING
    for daemon, severity in zip(connected, severities, strict=True):
        if severity != WELL:
            conditions = sorted({each.condition for each in daemon.findings} - OF_CERTIFICATES)
            yield Finding(
                "daemon-failing",
                best,
                daemon.address,
                f"the daemon {daemon.address} reports: {', '.join(conditions)}",
                "an operator runs hsmd status, which says what to do",
            )


def _keys(facts: AgentFacts) -> Iterator[Finding]:
    if not facts.complete:
        yield Finding(
            "no-key",
            FAILING,
            text="the keys are not known yet: no daemon has answered since the agent was set up",
            next_step="fix the connection to the daemon first",
        )
    elif not facts.keys:
        yield Finding(
            "no-key",
            FAILING,
            text=f"no key is granted to {facts.client}",
            next_step=f"an operator runs: hsmd grant add {facts.client} KEY",
        )
    if facts.not_granted and facts.complete:
        yield Finding(
            "key-not-granted",
            PARTIAL if facts.keys else FAILING,
            text=f"agent.toml names keys that are not granted to {facts.client}: {_named(facts.not_granted)}",
            next_step=f"an operator runs: hsmd grant add {facts.client} {facts.not_granted[0]}; or remove its section",
        )
    if facts.cut:
        yield Finding(
            "keys-left-out",
            PARTIAL,
            text=f"the daemon grants {facts.client} more keys than an agent keeps; the last by name cannot be used",
            next_step="spread the grants over several clients, each with an agent of its own",
        )


def _certificates(facts: CertificateFacts) -> Iterator[Finding]:
    if facts.ended:
        yield Finding(
            "certificate-ended",
            FAILING if len(facts.ended) == facts.stored else PARTIAL,
            text=f"certificates have ended: {_named(facts.ended)}",
            next_step="renew them; an operator stores each with: hsmd cert import KEY FILE",
        )
    if facts.ending:
        yield Finding(
            "certificate-ending",
            DEGRADED,
            text=f"certificates end soon: {_named(facts.ending)}",
            next_step="renew them; an operator stores each with: hsmd cert import KEY FILE",
        )


def _reach(client: str) -> str:
    return (
        f"check network, address and host key in agent.toml, that the daemon runs, and that {client} is registered with"
        " this agent's key (hsmd client list)"
    )


def _named(names: Sequence[str]) -> str:
    more = f" and {len(names) - MOST_NAMED} more" if len(names) > MOST_NAMED else ""
    return ", ".join(names[:MOST_NAMED]) + more


def _because(problem: str) -> str:
    return f": {_bounded(problem)}" if problem else ""


def _bounded(text: str) -> str:
    return text if len(text) <= MAX_TEXT else text[: MAX_TEXT - 1] + "\u2026"
