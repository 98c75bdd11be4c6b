"""Control requests about events: what happened to keys, tokens, clients and the log (docs/events.md)."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any

from msgspec import Meta, Struct

from hsmd.protocol.messages.base import ANY_ROLE, NO_SUBJECT, Page, Request
from hsmd.protocol.messages.enumerations import EVENT_KIND, EVENTS_MISSED

__all__ = [
    "MISSED",
    "NOW",
    "POSITION",
    "Event",
    "EventPage",
    "EventsFollow",
    "EventsFollowed",
    "EventsRead",
    "missed_event",
    "position_event",
]

NOW = "now"
"""In place of a cursor: behind the newest event."""

Since = Annotated[str, Meta(max_length=64)]


class Event(Struct):
    """One event. The body of an `event` frame is one, too."""

    id: str
    """Its cursor: reading on from here begins with the event after it."""
    kind: Annotated[str, EVENT_KIND.meta]
    subject: str
    """Name of the key, token, client or daemon that it is about."""
    at: datetime
    """When it happened."""
    payload: dict[str, Any]
    """What else is known; [events.md](events.md) lists the members for each kind."""


class EventPage(Struct):
    """Events that the caller may read, in order, from a cursor on."""

    events: list[Event]
    begins: str
    """The cursor that the page begins behind: `since`, unless that was no cursor, or events are missing."""
    cursor: str
    """The `since` of the next request."""
    more: bool = False
    missed: Annotated[str, EVENTS_MISSED.meta] = ""
    """Why events before the first one of this page are missing; empty if none are."""


class EventsRead(Request, tag="events.read"):
    """Read events that the caller may read, from a cursor on."""

    Result = EventPage
    roles = ANY_ROLE
    changes = False
    subject = NO_SUBJECT

    since: Since = ""
    """A cursor; empty for the oldest event that is kept, `now` for none but those to come."""
    limit: Page = 100


class EventsFollowed(Struct):
    """The answer to `events.follow`: `event` frames follow it."""

    cursor: str
    """The frames begin with the first event after this cursor."""
    missed: Annotated[str, EVENTS_MISSED.meta] = ""
    """Why events between the requested cursor and this one are missing; empty if none are."""


class EventsFollow(Request, tag="events.follow"):
    """Have this session sent each event that the caller may read, from a cursor on, as it happens.

    A session follows once: a later request replaces the earlier one. It needs the capability for events.
    """

    Result = EventsFollowed
    roles = ANY_ROLE
    changes = False
    subject = NO_SUBJECT

    since: Since = ""
    """A cursor; empty for the oldest event that is kept, `now` for none but those to come."""


MISSED = "events.missed"
"""Kind of an event that no ledger holds: it tells a follower that others are missing."""


def missed_event(cursor: str, reason: str, now: datetime) -> Event:
    """The event that stands in place of those that are missing before `cursor`."""
    return Event(cursor, MISSED, "", now, {"reason": reason})


POSITION = "events.position"
"""Kind of an event that no ledger holds: a follower has got all that it may read before this cursor."""


def position_event(cursor: str, now: datetime) -> Event:
    """The event that keeps the cursor of a follower new while others are told much and it is told nothing."""
    return Event(cursor, POSITION, "", now, {})
