"""Keeps the audit log: seals segments, watches the room on the disk, and notices a log that is not the one it was."""

from __future__ import annotations

import asyncio
from datetime import timedelta

from hsmd import observe
from hsmd.daemon.audit.log import AuditLog, utc_now
from hsmd.daemon.config.settings import AuditConfig
from hsmd.daemon.front.access.snapshot_cache import SnapshotCache
from hsmd.daemon.front.checkpoints.checkpointer import Checkpointer, Published
from hsmd.daemon.front.signing.service import KeyService
from hsmd.daemon.store.records import AuditHead
from hsmd.errors import AuditFailure, BadRequest, HsmdError
from hsmd.transparency.discontinuity import EVENT as DISCONTINUITY_EVENT, Discontinuity, parse_text, to_fields
from hsmd.transparency.lines import format_time
from hsmd.transparency.note import Note

LOOK_S = 1.0
"""How often the disk is looked at, and whether a segment is full."""
CLOCKS_APART = timedelta(minutes=5)
"""How far the clock of an operator's host may be ahead of ours."""
_MIB = 1 << 20

log = observe.logger()


class LogGuard:
    """One for each daemon, on its event loop. Says in `KeyService.held` why no key may be used, if so."""

    checkpointer: Checkpointer
    """Set by whoever makes both: each needs the other."""

    def __init__(
        self,
        config: AuditConfig,
        origin: str,
        *,
        audit: AuditLog,
        catalogue: SnapshotCache,
        service: KeyService,
        remembered: AuditHead | None,
        discontinuities: list[str],
    ) -> None:
        """`remembered` is the newest state of this log that the store knows: an older log is noticed at once."""
        self._config = config
        self._origin = origin
        self._audit = audit
        self._catalogue = catalogue
        self._service = service
        self._compared = False
        self._behind = ""
        self._cramped = ""
        self._fault = ""
        self.remembered = remembered
        self.discontinuities = discontinuities
        self.free_bytes = 0
        self.warning = ""
        if remembered is not None and audit.size < remembered.size:
            self._note_behind(f"it has {audit.size} records; it had {remembered.size}")

    @property
    def held(self) -> str:
        """Why no key may be used; empty if nothing of ours stands in the way."""
        return self._behind or self._cramped

    async def follow(self) -> None:
        """Do what is due; runs until cancelled."""
        while True:
            await self._look_at_disk()
            if self._audit.seal_due:
                await self._seal()
            await asyncio.sleep(LOOK_S)

    # --- is it the log it was ---

    async def continues(self) -> bool:
        """Whether the log continues what the store remembers of it; its tree must be there."""
        known = self.remembered
        if not (self._compared or self._behind or known is None):
            if await self.checkpointer.root_at(known.size) != known.root:
                self._note_behind(f"its first {known.size} records are not those it had")
            self._compared = True
        return not self._behind

    async def published(self, newest: Published) -> None:
        """Have the store remember a checkpoint. Raises StoreFailure."""
        checkpoint = newest.checkpoint
        head = AuditHead(checkpoint.origin, checkpoint.size, checkpoint.root, newest.verifier_key)
        await self._catalogue.read(lambda store: store.advance_audit_head(head))
        self.remembered = head

    async def declare(self, client: str, found: Discontinuity, note: Note) -> None:
        """Record what an operator declared, if it is about this log as it is, and go on from there.

        Raises HsmdError; then keys are used, or not, as before.
        """
        await self._check(found)
        text = note.render()
        self._audit.event(DISCONTINUITY_EVENT, client, **to_fields(note))
        await self._audit.commit_durable()
        head = AuditHead(found.origin, found.new.size, found.new.root, found.key)
        await self._catalogue.change(lambda store: store.declare_discontinuity(head, found.time, text))
        self.discontinuities.append(text)
        self.remembered = head
        self._behind = ""
        self._hold()
        log.warning("audit.discontinuity", client=client, reason=found.reason)
        await self.checkpointer.try_checkpoint()

    async def _check(self, found: Discontinuity) -> None:
        if found.origin != self._origin or found.key != self.checkpointer.verifier_key:
            raise BadRequest(
                f"note: this log is {self._origin}, and its key {self.checkpointer.verifier_key}"
            )
        self._check_time(found.time)
        state = await self.checkpointer.standing()
        if not 0 < found.new.size <= state.size:
            raise BadRequest(f"note: new: the log has {state.size} records")
        if await self.checkpointer.root_at(found.new.size) != found.new.root:
            raise BadRequest(f"note: new: that is not the root of the first {found.new.size} records")

    def _check_time(self, declared: str) -> None:
        """Each declaration is newer than the one before, so one from the far future would be the last."""
        if declared > format_time(utc_now() + CLOCKS_APART):
            raise BadRequest(
                f"note: time: {declared} is in the future here; compare the clocks of both hosts"
            )
        before = max((parse_text(Note.parse(text).text).time for text in self.discontinuities), default="")
        if declared <= before:
            raise BadRequest(f"note: time: one was declared at {before}; sign one that is newer")

    def _note_behind(self, reason: str) -> None:
        self._behind = (
            f"the audit log of {self._origin} is not the one it was: {reason}; if it was restored from a backup, "
            "an operator has to say so: hsmd audit discontinuity --reason TEXT"
        )
        log.error("audit.behind", reason=self._behind)
        self._hold()

    # --- segments and room ---

    async def seal(self) -> int:
        """The live file becomes a segment. The index of the first record behind it. Raises HsmdError."""
        first = await self.checkpointer.seal()
        log.info("audit.sealed", count=first)
        return first

    async def _seal(self) -> None:
        fault = ""
        try:
            await self.seal()
        except HsmdError as problem:
            fault = problem.detail or problem.text
        if fault and not self._fault:
            log.error("audit.not_sealed", reason=fault)
        self._fault = fault

    async def _look_at_disk(self) -> None:
        try:
            self.free_bytes = await asyncio.to_thread(lambda: self._audit.free_bytes)
        except OSError as problem:
            log.error("audit.disk", reason=str(problem))
            return
        free = f"{self.free_bytes // _MIB} MiB are free for the audit log"
        warning = (
            f"{free}; archive sealed segments or make room" if self._below(self._config.warn_free_mib) else ""
        )
        if warning and not self.warning:
            log.warning("audit.disk_low", reason=warning)
        self.warning = warning
        full = self._below(self._config.reserve_mib)
        if full and not self._cramped:
            log.error("audit.disk_full", reason=free)
        elif self._cramped and not full:
            log.info("audit.disk_well", reason=free)
        self._cramped = f"{free}, too few to use keys; archive sealed segments or make room" if full else ""
        self._hold()

    def _below(self, mib: int) -> bool:
        return self.free_bytes < mib * _MIB

    def _hold(self) -> None:
        self._service.held = AuditFailure(detail=self.held) if self.held else None
