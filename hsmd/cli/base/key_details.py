"""A key as text, for `hsmd key` and `hsmd cert`."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from hsmd.cli.base.output import fields, table, when
from hsmd.protocol.messages import KeyInfo, KeyReplacement, ServedBy

if TYPE_CHECKING:
    from rich.console import RenderableType


_SERVED = {
    "current": "the stored certificate",
    "other": "another certificate",
    "unreported": "(not reported)",
}
_NAMED = 5


def describe(info: KeyInfo, served: Sequence[ServedBy] = ()) -> RenderableType:
    """Table of the properties of a key, and of the front ends that serve it."""
    return fields(
        [
            ("name", info.name),
            ("type", info.key_type),
            ("purposes", ", ".join(info.purposes)),
            ("token", info.token),
            ("public key", f"SHA-256 {info.digest}"),
            *([("owner", owner_text(info.owner, removed=info.owner_removed))] if info.owner else []),
            ("created", when(info.created_at)),
            ("certificate until", _until(info) or "(no certificate yet)"),
            ("replacement", _replacement(info.name, info.replacement)),
            ("served by", _served_by(served)),
            ("warnings", "; ".join(info.warnings)),
        ]
    )


def time_left(info: KeyInfo, now: datetime | None = None) -> str:
    """How long the certificate is still valid, with a word if that is not long; empty without a certificate."""
    if info.certificate_not_after is None:
        return ""
    left = info.certificate_not_after - (now or datetime.now(UTC))
    if info.certificate_state == "ended" or left < timedelta(0):
        return f"ENDED {_span(-left)} ago"
    if info.certificate_state == "not-yet-valid":
        return "NOT VALID YET"
    return _span(left) + (", ENDS SOON" if info.certificate_state == "ending" else "")


def _span(span: timedelta) -> str:
    """In days, of less than two days in hours."""
    hours = span // timedelta(hours=1)
    return f"{hours // 24} d" if hours >= 48 else f"{hours} h"


def served_table(front_ends: Sequence[ServedBy]) -> RenderableType:
    """Which certificate each front end serves."""
    rows = [
        (each.client, _SERVED.get(each.state, each.state), when(each.since), each.certificate[:16])
        for each in front_ends
    ]
    return table(("CLIENT", "SERVES", "SINCE", "SHA-256"), rows, whole=1)


def _until(info: KeyInfo) -> str:
    until = when(info.certificate_not_after)
    return f"{until} ({time_left(info)})" if until else ""


def _replacement(name: str, replacement: KeyReplacement | None) -> str:
    if replacement is None:
        return ""
    if replacement.switched_at is None:
        if name == replacement.key:
            return f"{replacement.successor} is to take over its name"
        return f"is to take over the name {replacement.key}"
    if name == replacement.successor:
        return f"has taken over the name of {replacement.key} on {when(replacement.switched_at)}"
    return f"{replacement.successor} has taken over its name on {when(replacement.switched_at)}"


def _served_by(front_ends: Sequence[ServedBy]) -> str:
    """One line for each of the first few; those that serve another certificate come first."""
    by_state = sorted(front_ends, key=lambda each: (each.state == "current", each.state, each.client))
    lines = [
        f"{each.client}: {_SERVED.get(each.state, each.state)}{f' since {when(each.since)}' if each.since else ''}"
        for each in by_state[:_NAMED]
    ]
    more = len(by_state) - _NAMED
    return "; ".join(lines) + (f"; and {more} more" if more > 0 else "")


def owner_text(name: str, *, removed: bool) -> str:
    """The owner of a key; empty if it has none."""
    return f"{name} (removed)" if removed else name
