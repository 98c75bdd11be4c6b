"""Checks of keys by complete TLS handshakes, and what to do about one that fails."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from pathlib import Path

from hsmd.cli.agent import handshake
from hsmd.cli.agent.check_results import Finding, bad, good
from hsmd.cli.agent.handshake import KINDS, Actor, Attempt, Outcome

_SUBJECT = "handshake"


def attempts(key: str, purposes: Sequence[str], certificate: Path, reference: Path) -> list[Attempt]:
    """The handshakes that these purposes allow."""
    return [Attempt(key, KINDS[purpose], certificate, reference) for purpose in KINDS if purpose in purposes]


def check(actor: Actor, server: str, client: str, tried: Sequence[Attempt]) -> list[Finding]:
    """One finding for each key whose handshakes succeed, and one for each failure. `server` is the name for `agent install`."""
    try:
        outcomes = list(handshake.try_all(actor, tried))
    except (OSError, RuntimeError, subprocess.TimeoutExpired) as error:
        fix = (
            "install the package libssl3, which the check requires; to check as another user, run it as root"
        )
        return [bad(_SUBJECT, f"{actor.name}: it could not be tried: {error}", fix)]
    by_key: dict[str, list[Outcome]] = {}
    for outcome in outcomes:
        by_key.setdefault(outcome.attempt.key, []).append(outcome)
    return [
        finding for key, of_key in by_key.items() for finding in _of_key(actor, server, client, key, of_key)
    ]


def _of_key(actor: Actor, server: str, client: str, key: str, outcomes: Sequence[Outcome]) -> list[Finding]:
    found = []
    done = [outcome.attempt.kind.name for outcome in outcomes if not outcome.error]
    if done:
        found.append(good(_SUBJECT, f"{key}: {', '.join(done)} {actor.name}"))
    failed = [outcome for outcome in outcomes if outcome.error]
    for error in dict.fromkeys(outcome.error for outcome in failed):
        alike = [outcome for outcome in failed if outcome.error == error]
        names = ", ".join(outcome.attempt.kind.name for outcome in alike)
        fix = _fix(actor, server, client, alike[0])
        found.append(bad(_SUBJECT, f"{key}: {names} {actor.name}: {error}", fix))
    return found


def _fix(actor: Actor, server: str, client: str, outcome: Outcome) -> str:
    key, error = outcome.attempt.key, outcome.error
    user = "the user" if actor.account is None else actor.account.name
    if "no such socket" in error and actor.chroot:
        install = f"hsmd agent install {server or 'haproxy'}"
        return f"the chroot hides the socket: run {install}, which shows it there, then restart the server"
    if "no such socket" in error or "no process listens" in error:
        return "start the agent: systemctl start hsmd-agent, or hsmd agent run"
    if "may not use the socket" in error or "agent.toml does not allow" in error:
        return f"add {user} to `users` in agent.toml, then: systemctl reload hsmd-agent"
    if "does not grant" in error:
        purpose = next(name for name, kind in KINDS.items() if kind is outcome.attempt.kind)
        return (
            f"an operator runs: hsmd grant add {client or 'CLIENT'} {key} --purpose {purpose}; or have the server offer"
            f" only what is granted, and check that with --purpose"
        )
    if outcome.stage == "load":
        return f"write the files again (hsmd agent export {key}), and let {user} read them"
    return "see the state of the token on the key host: hsmd status"
