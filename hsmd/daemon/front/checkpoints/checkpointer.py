"""Signs the state of the audit log with a key in the token, so that a later change of the log can be proved.

A checkpoint is a record of the log too. It covers what was on disk when it was made, never itself.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass

from hsmd import observe
from hsmd.algorithms import KeyType, SignatureScheme
from hsmd.daemon.audit.log import AuditLog
from hsmd.daemon.audit.tree import LogTree
from hsmd.daemon.front.access.identity import DAEMON
from hsmd.daemon.front.access.snapshot import Snapshot
from hsmd.daemon.front.checkpoints.continuity import Continuity
from hsmd.daemon.front.signing.daemon_keys import MakeKey, make_daemon_key
from hsmd.daemon.front.signing.daemon_signing import sign_as_daemon
from hsmd.daemon.front.signing.service import KeyService
from hsmd.daemon.store.records import AuditHead, KeyRecord
from hsmd.errors import AuditFailure, HsmdError
from hsmd.purposes import Purpose
from hsmd.transparency.checkpoint import Checkpoint
from hsmd.transparency.note import Note, Verifier, signed
from hsmd.transparency.records import CHECKPOINT_EVENT
from hsmd.transparency.verification import MAX_LAG

SIGN_S = 5.0
"""Time for one checkpoint. One that failed is not repeated: the next one covers its records too."""
OWN_RECORDS = 3
"""A checkpoint's attempt, its outcome and itself; further records make another checkpoint due."""

log = observe.logger()


@dataclass(frozen=True, slots=True)
class Published:
    """A checkpoint: its content, the signed note, and the verifier key line to check it with."""

    checkpoint: Checkpoint
    note: str
    verifier_key: str


class Checkpointer:
    """Makes checkpoints and proofs, on the event loop; the tree is read and extended in a thread."""

    def __init__(
        self,
        *,
        origin: str,
        audit: AuditLog,
        tree: LogTree,
        service: KeyService,
        snapshot: Callable[[], Snapshot],
        continuity: Continuity,
        make_key: MakeKey,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`make_key` makes a key of the purpose `checkpoint`."""
        self._origin = origin
        self._audit = audit
        self._tree = tree
        self._service = service
        self._snapshot = snapshot
        self._make_key = make_key
        self._continuity = continuity
        self._clock = clock
        self._busy = asyncio.Lock()
        self._made_at = clock()
        self._fault = ""
        self.newest = self._recalled()

    async def follow(self, interval_s: float) -> None:
        """Make a checkpoint every `interval_s` seconds if one is due; runs until cancelled."""
        while True:
            await asyncio.sleep(interval_s)
            await self.try_checkpoint()

    async def try_checkpoint(self, *, with_new_key: bool = True) -> None:
        """As `checkpoint`, but log a failure: its beginning and its end."""
        fault = ""
        try:
            await self.checkpoint(with_new_key=with_new_key)
        except (HsmdError, OSError) as error:
            fault = (
                f"{error}: {error.detail}" if isinstance(error, HsmdError) and error.detail else str(error)
            )
        if fault and not self._fault:
            log.error("checkpoint.failed", reason=fault)
        elif self._fault and not fault:
            log.info("checkpoint.well_again")
        self._fault = fault

    async def checkpoint(self, *, with_new_key: bool = True) -> None:
        """Sign what is on disk, if there is anything new. Raises HsmdError or OSError.

        Nothing is signed if the log does not continue what is remembered of it, or if there is no key and none may be made.
        """
        async with self._busy:
            if not self._due():
                return
            deadline = self._clock() + SIGN_S
            key = self._key()
            if key is None and not with_new_key:
                return
            key = key or await self._made_key(deadline)
            await self._grow()
            if not await self._continuity.holds(self.root_at):
                return
            await self._publish(Checkpoint(self._origin, self._tree.size, self._tree.root()), key, deadline)

    async def standing(self) -> Checkpoint:
        """The checkpoint that would cover everything recorded so far. Raises HsmdError or OSError."""
        async with self._busy:
            await self._grow()
            await self._continuity.holds(self.root_at)
            return Checkpoint(self._origin, self._tree.size, self._tree.root())

    async def root_at(self, size: int) -> bytes:
        """The root of the first `size` records, which the tree has."""
        return await asyncio.to_thread(self._tree.root_at, size)

    async def seal(self) -> int:
        """Make a checkpoint if possible, then make the live file a segment. Return the index of the first record after it.

        Raises AuditFailure.
        """
        await self.try_checkpoint()
        async with self._busy:  # so that the tree does not read the live file meanwhile
            return await self._audit.seal()

    @property
    def origin(self) -> str:
        """The name of the log."""
        return self._origin

    @property
    def verifier_key(self) -> str:
        """The verifier key line of the signing key; empty if there is no key yet."""
        key = self._key()
        return "" if key is None else Verifier.from_spki(self._origin, key.public_key).vkey

    @property
    def age_s(self) -> float:
        """Seconds since the newest checkpoint if another one is due, else 0."""
        return self._clock() - self._made_at if self._due() else 0.0

    async def consistency(self, first: int, second: int) -> list[bytes]:
        """The proof that the first `second` records begin with the first `first`; both are covered by a checkpoint."""
        async with self._busy:
            await self._grow_to(second)
            return await asyncio.to_thread(self._tree.consistency, first, second)

    async def inclusion(self, index: int, size: int) -> list[bytes]:
        """The proof that record `index` is among the first `size`, which are covered by a checkpoint."""
        async with self._busy:
            await self._grow_to(size)
            return await asyncio.to_thread(self._tree.inclusion, index, size)

    async def _grow_to(self, size: int) -> None:
        """Have the leaves of the first `size` records: a tree that was lost is rebuilt by the first proof or checkpoint."""
        if self._tree.size < size:
            await self._grow()

    async def _grow(self) -> None:
        self._audit.commit()
        head = self._audit.position_now  # later records may not be on disk when the checkpoint is signed
        await self._audit.commit_durable()
        try:
            await asyncio.to_thread(self._tree.grow, head)
        except OSError as problem:
            raise AuditFailure(detail=f"the tree of the audit log: {problem}") from problem

    def _due(self) -> bool:
        covered = self.newest.checkpoint.size if self.newest else 0
        return self._audit.size - covered > (OWN_RECORDS if self.newest else 0)

    async def _publish(self, checkpoint: Checkpoint, key: KeyRecord, deadline: float) -> None:
        verifier = Verifier.from_spki(self._origin, key.public_key)
        scheme = SignatureScheme.ED25519 if key.key_type is KeyType.ED25519 else SignatureScheme.ECDSA_SHA256
        text = checkpoint.text()
        signature = await sign_as_daemon(
            self._service, DAEMON, key, Purpose.CHECKPOINT, scheme, text.encode(), deadline
        )
        note = signed(text, verifier, [signature])
        verifier.verify(note)
        self._audit.commit()
        if self._audit.size - checkpoint.size > MAX_LAG:  # no verifier would accept it, nor the log after it
            raise AuditFailure(
                detail=f"more than {MAX_LAG} records were written while a checkpoint was signed"
            )
        self._audit.event(
            CHECKPOINT_EVENT,
            "",
            origin=checkpoint.origin,
            size=checkpoint.size,
            root=checkpoint.root.hex(),
            signature=note.signatures[0].encoded,
        )
        await self._audit.commit_durable()
        self.newest = Published(checkpoint, note.render(), verifier.vkey)
        self._made_at = self._clock()
        await self._continuity.remember(
            AuditHead(checkpoint.origin, checkpoint.size, checkpoint.root, verifier.vkey)
        )

    async def _made_key(self, deadline: float) -> KeyRecord:
        return await make_daemon_key(self._audit, Purpose.CHECKPOINT, self._make_key, self._key, deadline)

    def _key(self) -> KeyRecord | None:
        return next(iter(self._snapshot().checkpoint_keys), None)

    def _recalled(self) -> Published | None:
        """The newest checkpoint in the log; None if there is none or its key no longer exists."""
        recalled = self._tree.newest_checkpoint()
        if recalled is None or recalled[0].origin != self._origin:
            return None
        checkpoint, signature = recalled
        for key in self._snapshot().checkpoint_keys:
            verifier = Verifier.from_spki(self._origin, key.public_key)
            if verifier.key_id == signature.key_id:
                return Published(checkpoint, Note(checkpoint.text(), (signature,)).render(), verifier.vkey)
        return None
