"""The rate at which a client may change its own key."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from hsmd.daemon.front.access.credentials import KeyCredential
from hsmd.daemon.front.access.identity import Identity
from hsmd.daemon.front.control.clients import ROTATION_RETRY_S, ROTATIONS, ClientHandlers
from hsmd.errors import Overloaded
from hsmd.protocol import messages
from hsmd.protocol.roles import Role

WEB, OPERATOR = (
    Identity(name, frozenset({role}), KeyCredential("F"))
    for name, role in (("web", Role.FRONT_END), ("ann", Role.OPERATOR))
)


class Cache:
    """A store in which the client's key is the successor of another one, or of none."""

    settled = False

    async def read(self, action: Callable[[Any], Any]) -> bool:
        return self.settled


@pytest.mark.parametrize("client", [WEB, OPERATOR], ids=["front end", "operator"])
async def test_changes_of_a_key_are_limited_and_requests_that_change_nothing_are_not(
    client: Identity,
) -> None:
    cache, now = Cache(), [0.0]
    handlers = ClientHandlers(cache=cache, clock=lambda: now[0])  # type: ignore[arg-type]
    finish = messages.ClientRotateKey()
    for _ in range(ROTATIONS):
        assert await handlers.settle_rotation(client, finish) is None
    with pytest.raises(Overloaded):
        await handlers.settle_rotation(client, finish)
    cache.settled = True
    for _ in range(2 * ROTATIONS):
        assert await handlers.settle_rotation(client, finish) == messages.Done(changed=False)
    cache.settled = False
    now[0] += ROTATION_RETRY_S
    assert await handlers.settle_rotation(client, finish) is None
    with pytest.raises(Overloaded):
        await handlers.settle_rotation(client, finish)
