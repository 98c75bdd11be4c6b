"""The findings about a daemon, from its status: what makes handshakes fail, and what will unless an operator acts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from hsmd.health.levels import DEGRADED, FAILING, PARTIAL, ordered
from hsmd.protocol.messages import DaemonStatus, Finding, TokenStatus

CONDITIONS = (
    "stopping",
    "token-away",
    "token-starting",
    "pin-refused",
    "logins-stopped",
    "log-not-writable",
    "log-broken",
    "disk-full",
    "disk-low",
    "checkpoints-late",
    "store-stale",
    "store-away",
    "certificate-ended",
    "certificate-ending",
    "list-ended",
    "list-ending",
)
"""What findings about a daemon there can be."""
CHECKPOINT_LATE_S = 60
STORE_AWAY_S = 5
"""A store that is away for less is not reported: it is asked every second, and may take its time to answer."""
MOST_NAMED = 3
"""Certificates that a finding names."""
_ENDS = {"ended": ("has ended", "have ended"), "ending": ("ends soon", "end soon")}
MAX_TEXT = 400
"""Reasons come from modules and operating systems, and may be long."""


def judge(status: DaemonStatus) -> list[Finding]:
    """The findings that follow from a status, the worst first; `level` and `findings` of it are not looked at."""
    return ordered(
        (
            *_daemon(status),
            *_tokens(status.tokens),
            *_log(status),
            *_store(status),
            *_certificates(status),
            *_lists(status),
        )
    )


def _daemon(status: DaemonStatus) -> Iterator[Finding]:
    if status.draining:
        yield Finding(
            "stopping",
            FAILING,
            text="the daemon is stopping and accepts nothing new",
            next_step="start it again: systemctl start hsmd, or hsmd serve",
        )


def _tokens(tokens: Sequence[TokenStatus]) -> Iterator[Finding]:
    """A token that cannot be used makes all handshakes fail, or those with its keys if another one can be used."""
    severity = PARTIAL if any(token.state == "ready" for token in tokens) else FAILING
    for token in tokens:
        reason = _bounded(token.reason)
        if token.state == "login-refused":
            yield Finding(
                "pin-refused",
                severity,
                token.name,
                f"the token {token.name} refused the PIN: {reason}",
                f"correct the PIN, then run: hsmd token clear {token.name}",
            )
        elif token.breaker == "closed" and (token.state == "starting" or _waits_for_its_turn(token)):
            yield Finding(
                "token-starting",
                severity,
                token.name,
                f"no worker is logged in to the token {token.name} yet{_because(reason)}",
                "wait a few seconds; if it stays so, see: hsmd token list",
            )
        elif token.state != "ready":
            yield Finding(
                "token-away",
                severity,
                token.name,
                f"the token {token.name} cannot be used{_because(reason)}",
                "make the token and its module usable; the daemon tries again every second (hsmd token list)",
            )
        elif reason:
            yield Finding(
                "logins-stopped",
                DEGRADED,
                token.name,
                f"logins to the token {token.name} are stopped: {reason}; workers that are logged in go on",
                f"correct the PIN, then run: hsmd token clear {token.name}",
            )


def _waits_for_its_turn(token: TokenStatus) -> bool:
    """Whether nothing is known against the token: the reason is then why no worker is started, and passes by itself."""
    return token.state == "away" and bool(token.reason)


def _log(status: DaemonStatus) -> Iterator[Finding]:
    if not status.audit_writable:
        yield Finding(
            "log-not-writable",
            FAILING,
            text=f"the audit log cannot be written, so no key is used{_because(_bounded(status.audit_fault))}",
            next_step="check free space, permissions and the disk of the audit directory; the daemon tries again every second",
        )
    if "log-broken" in status.held:
        yield Finding(
            "log-broken",
            FAILING,
            text=f"the audit log is not the one that the store knows, so no key is used: {_bounded(status.audit_warning)}",
            next_step="find out why (hsmd audit verify); after a restore from a backup: hsmd audit discontinuity",
        )
    elif "disk-full" in status.held:
        yield Finding(
            "disk-full",
            FAILING,
            text=f"too little disk space is left for the audit log, so no key is used: {status.audit_free_bytes >> 20} MiB",
            next_step="free disk space, or move old segments away: hsmd audit archive",
        )
    elif status.audit_warning:
        yield Finding(
            "disk-low",
            DEGRADED,
            text=_bounded(status.audit_warning),
            next_step="free disk space, or move old segments away: hsmd audit archive",
        )
    if status.audit_uncovered_s > CHECKPOINT_LATE_S:
        yield Finding(
            "checkpoints-late",
            DEGRADED,
            text=f"no checkpoint of the audit log was signed for {status.audit_uncovered_s} s",
            next_step="see the daemon's log; the token must be able to sign checkpoints (hsmd audit key)",
        )


def _store(status: DaemonStatus) -> Iterator[Finding]:
    if "store-stale" in status.held:
        yield Finding(
            "store-stale",
            FAILING,
            text=f"the store has been away for too long, so no key is used: it was last reached {status.store_away_s} s ago",
            next_step="make the store reachable; see the daemon's log for the reason",
        )
    elif status.store_away_s > STORE_AWAY_S:
        yield Finding(
            "store-away",
            DEGRADED,
            text=f"the store was last reached {status.store_away_s} s ago; keys are used, but nothing can be changed",
            next_step="make the store reachable before store.fresh_s is over; see the daemon's log for the reason",
        )


def _certificates(status: DaemonStatus) -> Iterator[Finding]:
    """Handshakes with a certificate that has ended fail: all of them if there is no other one."""
    if status.certificates_ended:
        yield Finding(
            "certificate-ended",
            FAILING if status.certificates_ended == status.certificates else PARTIAL,
            text=_certificates_that("ended", status, status.certificates_ended),
            next_step="renew it and store it: hsmd cert import KEY FILE; or destroy a key that is not used any more",
        )
    if status.certificates_ending:
        yield Finding(
            "certificate-ending",
            DEGRADED,
            text=_certificates_that("ending", status, status.certificates_ending),
            next_step="renew it and store it: hsmd cert import KEY FILE",
        )


def _lists(status: DaemonStatus) -> Iterator[Finding]:
    """Verifiers that want a revocation list refuse all certificates of an authority without a current one."""
    next_step = "see the daemon's log; sign one by hand: hsmd ca crl AUTHORITY --out FILE"
    for condition, state, severity, what in (
        ("list-ended", "ended", PARTIAL, "has ended, or is missing"),
        ("list-ending", "ending", DEGRADED, "ends soon and was not replaced"),
    ):
        lists = [each for each in status.first_list_ends if each.state == state]
        if lists:
            named = ", ".join(
                f"{each.authority} ({each.ends:%Y-%m-%d %H:%M})" if each.ends else each.authority
                for each in lists[:MOST_NAMED]
            )
            more = f" and {len(lists) - MOST_NAMED} more" if len(lists) > MOST_NAMED else ""
            text = f"the revocation list {what}, of: {named}{more}"
            yield Finding(condition, severity, text=text, next_step=next_step)


def _certificates_that(state: str, status: DaemonStatus, count: int) -> str:
    """One line about the first few of these certificates."""
    named = [each for each in status.first_certificate_ends if each.state == state][:MOST_NAMED]
    keys = ", ".join(f"{each.key} ({each.not_after:%Y-%m-%d})" for each in named)
    more = f" and {count - len(named)} more" if named and count > len(named) else ""
    one, several = _ENDS[state]
    if count == 1:
        return f"the certificate of {keys or 'a key'} {one}"
    return f"{count} certificates {several}: {keys or 'see hsmd key list'}{more}"


def _because(reason: str) -> str:
    return f": {reason}" if reason else ""


def _bounded(text: str) -> str:
    return text if len(text) <= MAX_TEXT else text[: MAX_TEXT - 1] + "\u2026"
