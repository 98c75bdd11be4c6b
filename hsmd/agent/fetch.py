"""Fetching keys and their certificate chains from a daemon: in pages, and of the chains only those that have changed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable
from dataclasses import dataclass

from msgspec.structs import replace

from hsmd.agent.cache import CachedKey, check
from hsmd.client.connection import Connection
from hsmd.errors import NotFound, ProtocolError, Refused
from hsmd.protocol.messages import (
    MAX_PAGE,
    CertificateChains,
    CertificateExport,
    ChainPage,
    KeyChain,
    KeyInfo,
    KeyList,
    KeyPage,
    KeyShow,
    PemDocument,
)

MAX_KEYS = 10_000
"""Most keys that an agent keeps; of more it has the first ones by name, and says so."""
AT_A_TIME = 4
"""Chains that are asked for at a time from a daemon that returns one in an answer."""

Known = Callable[[str], CachedKey | None]
"""What is known of the key of a name."""


@dataclass(frozen=True, slots=True)
class Fetched:
    """All keys in the order of their names; `cut`: the daemon has more."""

    keys: list[CachedKey]
    cut: bool


async def fetch_one(connection: Connection, name: str, known: Known, *, timeout_s: float) -> CachedKey:
    """One key, if the daemon shows it to this client. Raises HsmdError."""
    info: KeyInfo = await connection.control(KeyShow(name=name), timeout_s=timeout_s)
    key = _unchanged(info, known)
    if key is None:
        key = CachedKey(info, await _chain(connection, info, timeout_s))
        check(key)
    return key


async def fetch(connection: Connection, known: Known, *, timeout_s: float) -> Fetched:
    """All keys that the daemon shows to this client; `timeout_s` is that of each request. Raises HsmdError."""
    keys: list[CachedKey] = []
    async for page in _pages(connection, timeout_s):
        kept = {info.name: _unchanged(info, known) for info in page}
        chains = await _chains(connection, [info for info in page if kept[info.name] is None], timeout_s)
        for info in page:
            key = kept[info.name]
            if key is None:
                key = _with_chain(info, chains.get(info.name))
                check(key)
            keys.append(key)
        if len(keys) > MAX_KEYS:
            return Fetched(keys[:MAX_KEYS], cut=True)
    return Fetched(keys, cut=False)


async def _pages(connection: Connection, timeout_s: float) -> AsyncIterator[list[KeyInfo]]:
    after, more = "", True
    while more:
        page: KeyPage = await connection.control(KeyList(after=after, limit=MAX_PAGE), timeout_s=timeout_s)
        if not page.keys or page.keys[0].name <= after:
            return
        yield page.keys
        after, more = page.keys[-1].name, page.more


def _unchanged(info: KeyInfo, known: Known) -> CachedKey | None:
    """The key as it is known, if nothing of it has changed. Earlier daemons give chains no mark: those may have."""
    key = known(info.name)
    if key is None or key.info != info or (info.certificate_not_after and not info.certificate_mark):
        return None
    return key


def _with_chain(info: KeyInfo, chain: KeyChain | None) -> CachedKey:
    """With the mark of the chain itself, which may have been replaced since the key was listed."""
    if chain is None:
        return CachedKey(info)
    return CachedKey(replace(info, certificate_mark=chain.mark), chain.pem)


async def _chains(connection: Connection, infos: list[KeyInfo], timeout_s: float) -> dict[str, KeyChain]:
    """The chains of these keys by name."""
    marked = [info.name for info in infos if info.certificate_mark]
    others = [info for info in infos if info.certificate_not_after and not info.certificate_mark]
    found = await _one_by_one(connection, others, timeout_s)
    while marked:
        page: ChainPage = await connection.control(CertificateChains(keys=marked), timeout_s=timeout_s)
        if page.answered < 1:
            raise ProtocolError("the daemon's page of certificate chains answers nothing")
        found |= {chain.key: chain for chain in page.chains}
        marked = marked[page.answered :]
    return found


async def _one_by_one(
    connection: Connection, infos: Iterable[KeyInfo], timeout_s: float
) -> dict[str, KeyChain]:
    """From a daemon of an earlier version."""
    places = asyncio.Semaphore(AT_A_TIME)

    async def ask(info: KeyInfo) -> KeyChain:
        async with places:
            return KeyChain(info.name, await _chain(connection, info, timeout_s), "")

    return {chain.key: chain for chain in await asyncio.gather(*map(ask, infos)) if chain.pem}


async def _chain(connection: Connection, info: KeyInfo, timeout_s: float) -> str:
    if info.certificate_not_after is None:
        return ""
    try:
        document: PemDocument = await connection.control(
            CertificateExport(key=info.name), timeout_s=timeout_s
        )
    except (NotFound, Refused):
        return ""
    return document.pem
