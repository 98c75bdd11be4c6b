"""Handlers of control requests about events."""

from __future__ import annotations

from hsmd.daemon.front.access.identity import Identity
from hsmd.daemon.front.control.dispatcher import Handler
from hsmd.daemon.front.ledger.event_reader import EventReader
from hsmd.protocol import messages
from hsmd.protocol.messages import Request


class EventHandlers:
    """Reads events for clients. The session of a request to follow has them pushed once this has answered."""

    def __init__(self, reader: EventReader) -> None:
        self._reader = reader

    def handlers(self) -> dict[type[Request], Handler]:
        """The method that carries out each request."""
        return {messages.EventsRead: self.read, messages.EventsFollow: self.follow}

    async def read(
        self, identity: Identity, request: messages.EventsRead, deadline: float
    ) -> messages.EventPage:
        return await self._reader.page(identity, request.since, request.limit)

    async def follow(
        self, identity: Identity, request: messages.EventsFollow, deadline: float
    ) -> messages.EventsFollowed:
        page = await self._reader.page(identity, request.since, 1)
        return messages.EventsFollowed(page.begins, page.missed)
