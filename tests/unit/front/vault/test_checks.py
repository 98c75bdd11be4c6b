"""Checks are limited for each client, before the store or the token is asked."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any

import pytest

from hsmd.daemon.front.access.credentials import KeyCredential
from hsmd.daemon.front.access.identity import Identity
from hsmd.daemon.front.vault.checks import AT_ONCE, AT_ONCE_OF_CLIENT, BURST, PER_SECOND, Checks
from hsmd.envelopes.vault.answers import Verdict
from hsmd.errors import EnvelopeInvalid, Overloaded
from hsmd.protocol.messages import VaultCheck
from hsmd.protocol.roles import Role
from tests.support.vault import NONCE, new_key, spki_of

SPKI = spki_of(new_key())


class World:
    """A store that knows no owner, and a token that signs when it is let."""

    def __init__(self) -> None:
        self.now = 0.0
        self.let = asyncio.Event()
        self.let.set()
        self.noted: list[str] = []
        identities = SimpleNamespace(client_row=lambda identity: 7)
        self.snapshot = SimpleNamespace(identities=identities)
        checkers = SimpleNamespace(look_up=lambda *asked: None, owner_row=lambda owner: 0)
        self.tx = SimpleNamespace(vault_checkers=checkers)
        parts: Any = self
        self.checks = Checks(
            cache=parts,
            trust=parts,
            signer=parts,
            records=parts,
            alterations=parts,
            clock=lambda: self.now,
        )

    async def ready(self) -> None: ...

    async def read(self, action: Any) -> Any:
        return action(self.tx)

    def check_room(self) -> None: ...

    def note(self, owner: str, key: str, count: Any) -> None:
        self.noted.append(count.verdict)

    async def sign_statement(self, kind: str, lines: Any, deadline: float) -> str:
        await self.let.wait()
        return "\n".join(lines)

    async def check(self, client: str = "web", spki: bytes = SPKI) -> str:
        identity = Identity(client, frozenset({Role.CHECKER}), KeyCredential("F"))
        return await self.checks.check(identity, VaultCheck("owen", spki, NONCE), 9.0)

    @asynccontextmanager
    async def under_way(self, *clients: str) -> AsyncIterator[None]:
        """Within this, these clients have checks that wait for the token."""
        self.let.clear()
        waiting = [asyncio.ensure_future(self.check(client)) for client in clients]
        await asyncio.sleep(0)
        try:
            async with asyncio.timeout(5):
                yield
        finally:
            self.let.set()
            await asyncio.gather(*waiting)


@pytest.fixture
async def world() -> World:
    return World()


async def test_a_client_has_a_few_checks_at_a_time(world: World) -> None:
    async with world.under_way(*["web"] * AT_ONCE_OF_CLIENT):
        with pytest.raises(Overloaded):
            await world.check()
        assert len(world.noted) == AT_ONCE_OF_CLIENT
    assert Verdict.NO_ANSWER in await world.check()


async def test_all_clients_together_have_a_limit(world: World) -> None:
    async with world.under_way(*(f"web-{number}" for number in range(AT_ONCE))):
        with pytest.raises(Overloaded):
            await world.check("another")
    await world.check("another")


async def test_checks_of_a_client_have_a_rate(world: World) -> None:
    for _ in range(BURST):
        await world.check()
    with pytest.raises(Overloaded):
        await world.check()
    await world.check("another")
    world.now += 1.0
    for _ in range(int(PER_SECOND)):
        await world.check()
    with pytest.raises(Overloaded):
        await world.check()


async def test_what_is_no_canonical_public_key_is_refused_before_the_store_is_asked(world: World) -> None:
    for spki in (b"", b"no key", SPKI + b"\0"):
        with pytest.raises(EnvelopeInvalid, match="public key"):
            await world.check(spki=spki)
    assert world.noted == []
