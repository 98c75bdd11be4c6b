"""The daemon itself as a user of keys: for requests, certificates and checkpoints, which it builds from typed fields."""

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
) -> bytes:
    """The signature over `data`, asked for in the name of `identity` and recorded like any other use of a key.

    `deadline` is monotonic. Raises the HsmdError that the use ended with.
    """
    grant = Grant(
        identity.client, key.name, key.digest, int(purpose), key.token, key.key_type, key.key_type.facts.work
    )
    asker = _DaemonCaller(identity)
    use = service.use_for_daemon(asker, grant, purpose, int(scheme), data, deadline)
    try:
        return await asker.answer
    finally:
        service.abandon([use])


class _DaemonCaller:
    """Waits for the answer to one request."""

    def __init__(self, identity: Identity) -> None:
        self.identity = identity
        self.answer: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

    def opened(self, request_id: int, use: SigningRequest) -> None:
        """One request at a time: nothing to remember."""

    def answered(self, request_id: int, answer: bytes) -> None:
        if not self.answer.done():
            self.answer.set_result(answer)

    def failed(self, request_id: int, error: HsmdError) -> None:
        if not self.answer.done():
            self.answer.set_exception(error)

    def flush(self) -> None:
        """The future has woken whoever waits."""
