"""The life cycle of a version of a record, from plain facts and the time: nothing of it is stored, so nothing is stale.

After NIST SP 800-57 part 1, section 7, with its states and reasons.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from hsmd.envelopes.vault.fields import format_time
from hsmd.envelopes.vault.records import Mode, RecordStanding

NO_LIMIT = -1
"""`uses_left` without a maximum."""


class State(StrEnum):
    """States of a key."""

    PRE_ACTIVE = "pre-active"
    ACTIVE = "active"
    SUSPENDED = "suspended"
    DEACTIVATED = "deactivated"
    COMPROMISED = "compromised"
    DESTROYED = "destroyed"
    DESTROYED_COMPROMISED = "destroyed-compromised"


class Reason(StrEnum):
    """Why a key is not simply active."""

    NONE = "none"
    NOT_YET = "not-yet"
    EXPIRED = "expired"
    LIMIT = "limit"
    SUPERSEDED = "superseded"
    OWNER = "owner"
    """The owner revoked it, said that it is compromised, or destroyed it."""
    SUSPENDED = "suspended"
    RESTORED = "restored"
    """The store is from a backup, so its counters may be too low; the owner has not signed since."""
    LOST_MANAGEMENT_KEY = "lost-management-key"
    """The owner started again with a new management key, and this deposit is under the old one."""


@dataclass(frozen=True, slots=True)
class Facts:
    """What is known of a version of a record."""

    standing: RecordStanding = RecordStanding.LIVE
    compromised: bool = False
    """Whether it is, or was when it was destroyed: its statement has `compromised_at`."""
    suspended: bool = False
    held: bool = False
    """Whether a restore holds it back."""
    ended_at: datetime | None = None
    """When its expiry was first observed: it stays ended if the clock goes back."""
    not_before: datetime | None = None
    not_after: datetime | None = None
    mode: Mode = Mode.NOTIFY
    max_uses: int = 0
    released: int = 0
    """How often it was given out."""
    superseded: bool = False
    lost: bool = False
    """Whether its management key is lost."""


@dataclass(frozen=True, slots=True)
class Standing:
    """What holds for it now."""

    state: State
    reason: Reason
    acquirable: bool
    """Whether the owner may take it out."""
    usable: bool
    """Whether a checker may rely on it: active, newest version, in its term, within its uses, not held back."""
    uses_left: int
    """NO_LIMIT without a maximum."""
    why: str
    """For people."""


def judge(facts: Facts, now: datetime) -> Standing:
    """The standing at `now`. The first of these that holds decides: destroyed, compromised, revoked, expired, lost, held
    back, suspended, not yet, maximum of uses, superseded."""
    state, reason, why = _ended(facts, now) or _interrupted(facts, now) or _used(facts) or _ACTIVE
    return Standing(
        state,
        reason,
        acquirable=state is State.ACTIVE or reason is Reason.SUPERSEDED,
        usable=state is State.ACTIVE and reason is Reason.NONE,
        uses_left=max(0, facts.max_uses - facts.released) if facts.max_uses else NO_LIMIT,
        why=why,
    )


def is_expired(facts: Facts, now: datetime) -> bool:
    """Whether the term is over; `not_after` itself is the first moment after it."""
    return facts.ended_at is not None or (facts.not_after is not None and now >= facts.not_after)


def is_exhausted(facts: Facts) -> bool:
    """Whether the next acquisition is beyond the maximum of uses."""
    return 0 < facts.max_uses <= facts.released


_Judgement = tuple[State, Reason, str]
_ACTIVE: _Judgement = (State.ACTIVE, Reason.NONE, "active")


def _ended(facts: Facts, now: datetime) -> _Judgement | None:
    """What cannot be undone, except the end of a term by a statement with a later one."""
    if facts.standing is RecordStanding.DESTROYED:
        state = State.DESTROYED_COMPROMISED if facts.compromised else State.DESTROYED
        return state, Reason.OWNER, "the owner destroyed it; its envelope is deleted"
    if facts.standing is RecordStanding.COMPROMISED or facts.compromised:
        return State.COMPROMISED, Reason.OWNER, "the owner says that it is compromised"
    if facts.standing is RecordStanding.REVOKED:
        return State.DEACTIVATED, Reason.OWNER, "the owner revoked it"
    if is_expired(facts, now):
        end = facts.not_after or facts.ended_at
        assert end is not None, "one of the two ended it"
        return State.DEACTIVATED, Reason.EXPIRED, f"its term ended at {format_time(end)}"
    return None


def _interrupted(facts: Facts, now: datetime) -> _Judgement | None:
    if facts.lost:
        why = "it is sealed to a management key that the owner lost; deposit the key again"
        return State.SUSPENDED, Reason.LOST_MANAGEMENT_KEY, why
    if facts.held:
        why = "the store was restored from a backup; the owner has to sign its limits again"
        return State.SUSPENDED, Reason.RESTORED, why
    if facts.suspended:
        return State.SUSPENDED, Reason.SUSPENDED, "the owner suspended it"
    if facts.not_before is not None and now < facts.not_before:
        return State.PRE_ACTIVE, Reason.NOT_YET, f"its term begins at {format_time(facts.not_before)}"
    return None


def _used(facts: Facts) -> _Judgement | None:
    taken = f"it was taken out {facts.released} times, and {facts.max_uses} are allowed"
    if is_exhausted(facts) and facts.mode is Mode.DENY:
        return State.DEACTIVATED, Reason.LIMIT, taken
    if facts.superseded:
        return State.DEACTIVATED, Reason.SUPERSEDED, "a newer version replaced it"
    if 0 < facts.max_uses < facts.released:
        return State.ACTIVE, Reason.LIMIT, taken
    return None
