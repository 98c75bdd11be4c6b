"""Signatures that the daemon itself makes: on certificate requests, certificates and checkpoints built from typed fields."""

from __future__ import annotations

import asyncio

from hsmd.algorithms import SignatureScheme
from hsmd.daemon.front.access.identity import Identity
from hsmd.daemon.front.access.snapshot import Grant
from hsmd.daemon.front.signing.service import KeyService
from hsmd.daemon.front.signing.signing_request import SigningRequest
from hsmd.daemon.store.records import KeyRecord
from hsmd.errors import HsmdError
from hsmd.purposes import Purpose


async def sign_as_daemon(
    service: KeyService,
    identity: Identity,
    key: KeyRecord,
    purpose: Purpose,
    scheme: SignatureScheme,
    data: bytes,
    deadline: float,
    grant: Grant | None = None,
) -> bytes:
    """Sign `data` in the name of `identity`, recorded like any other use of a key.

    `deadline` is monotonic; `grant` is the limited one that allows it, if the identity needs one. Raises the HsmdError
    that the request fails with.
    """
    grant = grant or Grant(
        identity.client, key.name, key.digest, int(purpose), key.token, key.key_type, key.key_type.facts.work
    )
    caller = _DaemonCaller(identity)
    request = service.use_for_daemon(caller, grant, purpose, int(scheme), data, deadline)
    try:
        return await caller.answer
    finally:
        service.abandon([request])


class _DaemonCaller:
    """A `Caller` with a future for the answer to its one request."""

    def __init__(self, identity: Identity) -> None:
        self.identity = identity
        self.open_requests: dict[int, SigningRequest | None] = {}
        self.answer: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

    def answered(self, request_id: int, answer: bytes) -> None:
        if not self.answer.done():
            self.answer.set_result(answer)

    def failed(self, request_id: int, error: HsmdError) -> None:
        if not self.answer.done():
            self.answer.set_exception(error)

    def flush(self) -> None:
        """The future has its result already."""
