"""When a node renews its certificate, and when it asks the daemon again. Pure."""

from __future__ import annotations

import hashlib
from datetime import datetime, timedelta

SHARE, SPREAD = 0.60, 0.07
"""A certificate is renewed when this share of its term has passed, and up to so much more: a fleet does not come at once."""
LOOKS = 12
"""Times that a node asks for anchors and revocation lists during the term of its certificate,"""
OFTEN_S, SELDOM_S = 2.0, 600.0
"""but with no less and no more than these pauses."""
RETRY_SHARE = 40
"""After a failure it is tried again after this part of the time that is left,"""
RETRY_S = 1.0
"""no sooner than this, and no later than SELDOM_S."""


WASTED_S, MOST_DOUBLED = 60.0, 20
"""A daemon gives a client so many certificates at a time and no more. After one that came to nothing the next is asked for after
this time, which doubles each time."""
NONE_S = 10.0
"""A node that has no certificate tries again after this time."""


def due(begins: datetime, ends: datetime, name: str) -> datetime:
    """When the certificate with these dates is to be renewed; the same for the same node `name`."""
    at = int.from_bytes(hashlib.sha256(name.encode()).digest()[:4]) / 0xFFFFFFFF
    return begins + (ends - begins) * (SHARE + SPREAD * at)


def may_ask(asked_at: datetime | None, wasted: int, now: datetime) -> bool:
    """Whether a certificate may be asked for, after `wasted` that came to nothing. A clock that was set back forbids nothing."""
    if asked_at is None or not wasted or asked_at > now:
        return True
    return now >= asked_at + timedelta(seconds=WASTED_S * 2 ** min(wasted - 1, MOST_DOUBLED))


def next_look(begins: datetime, ends: datetime, now: datetime, *, failed: bool) -> datetime:
    """When the daemon is asked again: sooner after a failure, the less time is left the sooner."""
    if failed:
        pause_s = max(RETRY_S, (ends - now).total_seconds() / RETRY_SHARE)
    else:
        pause_s = max(OFTEN_S, (ends - begins).total_seconds() / LOOKS)
    return now + timedelta(seconds=min(pause_s, SELDOM_S))
