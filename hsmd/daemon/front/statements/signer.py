"""Signs statements of this daemon, for vault, deposits and rollover to come."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence

from hsmd.algorithms import KeyType, SignatureScheme
from hsmd.daemon.audit.log import AuditLog
from hsmd.daemon.front.access.identity import DAEMON
from hsmd.daemon.front.access.snapshot import Snapshot
from hsmd.daemon.front.access.snapshot_cache import SnapshotCache
from hsmd.daemon.front.signing.daemon_keys import MakeKey, make_daemon_key
from hsmd.daemon.front.signing.daemon_signing import sign_as_daemon
from hsmd.daemon.front.signing.service import KeyService
from hsmd.daemon.front.statements.keys import StatementKeys, sort_keys
from hsmd.daemon.store.records import KeyRecord
from hsmd.errors import BadRequest, Conflict
from hsmd.purposes import Purpose
from hsmd.transparency.note import Verifier, signed
from hsmd.transparency.statement import Statement, signer_of

SIGN_S = 5.0
"""Time for one statement, if its caller names no deadline. Making the key takes longer, once in the life of a store."""

PROBE = "vault-answer"
"""Kind of the statement that a probe signs; it has no line of an answer, and does not leave the daemon."""


class StatementSigner:
    """Signs with the statement key of the store, which it makes when the first statement is due."""

    def __init__(
        self,
        *,
        daemon: str,
        audit: AuditLog,
        service: KeyService,
        cache: SnapshotCache,
        make_key: MakeKey,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`daemon` is the name of this daemon; `make_key` makes a key of the purpose `statement`."""
        self._daemon = daemon
        self._audit = audit
        self._service = service
        self._cache = cache
        self._make_key = make_key
        self._clock = clock
        self._making = asyncio.Lock()
        self._sorted: tuple[Snapshot, StatementKeys] | None = None

    @property
    def daemon(self) -> str:
        """The name of the daemon in its statements."""
        return self._daemon

    @property
    def keys(self) -> StatementKeys:
        """The keys of the store. Each check of the vault asks, so they are sorted once for each snapshot."""
        snapshot = self._cache.snapshot
        if self._sorted is None or self._sorted[0] is not snapshot:
            self._sorted = snapshot, sort_keys(snapshot.statement_keys, snapshot.statement_endorsements)
        return self._sorted[1]

    async def sign_statement(self, kind: str, lines: Sequence[str], deadline: float | None = None) -> str:
        """State `lines`; returns the signed note. `deadline` is monotonic.

        Recorded like any use of a key, in the daemon's name. Raises BadRequest for what cannot be stated, or the HsmdError
        that the signature fails with; the keys' holds apply.
        """
        stated = Statement(kind, self._daemon, tuple(lines))
        if deadline is None:
            deadline = self._clock() + SIGN_S
        key = self._key() or await self._made_key(deadline)
        return await self._signed(stated, key, deadline)

    async def prove_held(self, key: KeyRecord) -> None:
        """Pass if the token signs with this statement key, which is more than that the store has it. Raises HsmdError."""
        probe = Statement(PROBE, self._daemon, (f"probe {key.name}",))
        await self._signed(probe, key, self._clock() + SIGN_S)

    async def _signed(self, stated: Statement, key: KeyRecord, deadline: float) -> str:
        """The note of a statement, signed with this key and verified. Raises HsmdError."""
        text = stated.text()
        scheme = SignatureScheme.ED25519 if key.key_type is KeyType.ED25519 else SignatureScheme.ECDSA_SHA256
        signature = await sign_as_daemon(
            self._service, DAEMON, key, Purpose.STATEMENT, scheme, text.encode(), deadline
        )
        verifier = Verifier.from_spki(signer_of(self._daemon), key.public_key)
        note = signed(text, verifier, [signature])
        verifier.verify(note)
        return note.render()

    async def _made_key(self, deadline: float) -> KeyRecord:
        """The key, made by this daemon or meanwhile by another one that shares the store."""
        async with self._making:
            if (key := self._key()) is not None:
                return key
            try:
                return await make_daemon_key(
                    self._audit, Purpose.STATEMENT, self._make_key, self._key, deadline
                )
            except (BadRequest, Conflict):  # the name is taken
                await self._cache.refresh()
                if (key := self._key()) is None:
                    raise
                return key

    def _key(self) -> KeyRecord | None:
        return self.keys.signing
