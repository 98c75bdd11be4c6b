"""The daemons of a node: asked in their order, until one answers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

from hsmd.client import Client, Endpoint
from hsmd.errors import (
    BadRequest,
    ConfigurationError,
    Conflict,
    HsmdError,
    NotFound,
    PurposeMismatch,
    Refused,
    Unavailable,
)
from hsmd.protocol.messages import Request

ASK_S = 15.0
_FINAL = (Refused, NotFound, BadRequest, Conflict, PurposeMismatch, ConfigurationError)
"""What another daemon of the same store would answer, too."""


class Daemons:
    """Connections that are made when they are needed, and kept for one pass. A context manager."""

    def __init__(
        self, endpoints: Sequence[Endpoint], connect: Callable[[Endpoint], Client] = Client.connect
    ) -> None:
        self._endpoints = list(endpoints)
        self._connect = connect
        self._client: Client | None = None
        self.used = ""
        """The address of the daemon that answered last."""

    def ask(self, request: Request) -> Any:
        """The result of a request. Raises HsmdError: a refusal at once, and Unavailable if no daemon could be asked."""
        faults = []
        for endpoint in list(self._endpoints):
            try:
                client = self._client or self._connect(endpoint)
                self._client, self.used = client, endpoint.address
                return client.control(request, timeout_s=ASK_S)
            except _FINAL:
                raise
            except HsmdError as error:
                faults.append(f"{endpoint.address}: {error.text}")
                self.close()
                self._endpoints.append(
                    self._endpoints.pop(0)
                )  # the others are asked before it is tried again
        raise Unavailable(f"no daemon answers: {'; '.join(faults)}")

    def close(self) -> None:
        """End the connection."""
        client, self._client = self._client, None
        if client is not None:
            with suppress(HsmdError):
                client.close()

    def __enter__(self) -> Daemons:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
