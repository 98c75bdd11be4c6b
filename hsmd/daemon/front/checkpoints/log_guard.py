"""Guards the audit log: seals full segments, watches free disk space, and checks declared discontinuities."""

from __future__ import annotations

import asyncio
from datetime import timedelta

from hsmd import observe
from hsmd.daemon.audit.log import AuditLog, utc_now
from hsmd.daemon.config.settings import AuditConfig
from hsmd.daemon.front.checkpoints.checkpointer import Checkpointer
from hsmd.daemon.front.checkpoints.continuity import Continuity
from hsmd.daemon.front.signing.hold import KeyHold, Reason
from hsmd.errors import AuditFailure, BadRequest, HsmdError
from hsmd.transparency.discontinuity import Discontinuity, parse_text
from hsmd.transparency.lines import format_time
from hsmd.transparency.note import Note

CHECK_S = 1.0
"""Interval at which free disk space and the size of the live file are checked."""
CLOCK_TOLERANCE = timedelta(minutes=5)
"""How far the clock of an operator's host may be ahead of the daemon's."""
_MIB = 1 << 20

log = observe.logger()


class LogGuard:
    """One for each daemon, on its event loop."""

    def __init__(
        self,
        config: AuditConfig,
        *,
        audit: AuditLog,
        checkpointer: Checkpointer,
        continuity: Continuity,
        hold: KeyHold,
    ) -> None:
        self._config = config
        self._audit = audit
        self._checkpointer = checkpointer
        self._hold = hold
        self._disk_full = ""
        self._fault = ""
        self.continuity = continuity
        self.free_bytes = 0
        self.warning = ""
        """That free disk space is low; empty if it is not."""

    @property
    def held(self) -> str:
        """Why no key may be used because of the log; empty if none of these reasons applies."""
        return self.continuity.broken or self._disk_full

    async def follow(self) -> None:
        """Check at regular intervals and seal when due; runs until cancelled."""
        while True:
            await self._check_disk()
            if self._audit.seal_due:
                await self._try_to_seal()
            await asyncio.sleep(CHECK_S)

    # --- discontinuities ---

    async def declare(self, client: str, found: Discontinuity, note: Note) -> None:
        """Record an operator's declaration if it describes this log as it is, and sign a checkpoint.

        Raises HsmdError; the log is then held, or not, as before.
        """
        await self._check(found)
        await self.continuity.record(client, found, note)
        await self._checkpointer.try_checkpoint()

    async def _check(self, found: Discontinuity) -> None:
        origin, key = self._checkpointer.origin, self._checkpointer.verifier_key
        if (found.origin, found.key) != (origin, key):
            raise BadRequest(f"note: this log is {origin}, and its key {key}")
        self._check_time(found.time)
        state = await self._checkpointer.standing()
        if not 0 < found.new.size <= state.size:
            raise BadRequest(f"note: new: the log has {state.size} records")
        if await self._checkpointer.root_at(found.new.size) != found.new.root:
            raise BadRequest(f"note: new: not the root of the first {found.new.size} records")

    def _check_time(self, declared: str) -> None:
        """Declarations must be in order of time, so one dated far in the future would prevent all later ones."""
        if declared > format_time(utc_now() + CLOCK_TOLERANCE):
            raise BadRequest(f"note: time: {declared} is in the future; compare the clocks of both hosts")
        notes = self.continuity.discontinuities
        before = max((parse_text(Note.parse(text).text).time for text in notes), default="")
        if declared <= before:
            raise BadRequest(f"note: time: one was declared at {before}; sign one that is newer")

    # --- segments and disk space ---

    async def seal(self) -> int:
        """Make the live file a segment. Return the index of the first record after it. Raises HsmdError."""
        first = await self._checkpointer.seal()
        log.info("audit.sealed", count=first)
        return first

    async def _try_to_seal(self) -> None:
        fault = ""
        try:
            await self.seal()
        except HsmdError as problem:
            fault = problem.detail or problem.text
        if fault and not self._fault:
            log.error("audit.not_sealed", reason=fault)
        self._fault = fault

    async def _check_disk(self) -> None:
        try:
            self.free_bytes = await asyncio.to_thread(lambda: self._audit.free_bytes)
        except OSError as problem:
            log.error("audit.disk", reason=str(problem))
            return
        free = f"{self.free_bytes // _MIB} MiB are free for the audit log"
        warning = f"{free}; archive sealed segments or free disk space"
        self._warn(warning if self._below(self._config.warn_free_mib) else "")
        self._hold_if(self._below(self._config.reserve_mib), free)

    def _below(self, mib: int) -> bool:
        return self.free_bytes < mib * _MIB

    def _warn(self, warning: str) -> None:
        if warning and not self.warning:
            log.warning("audit.disk_low", reason=warning)
        self.warning = warning

    def _hold_if(self, full: bool, free: str) -> None:
        """Hold all keys while the disk is full: the reserve is for outcomes and the records of control requests."""
        self._disk_full = (
            f"{free}, too little to use keys; archive sealed segments or free disk space" if full else ""
        )
        if self._hold.set(Reason.DISK, AuditFailure(detail=self._disk_full) if full else None):
            log.error("audit.disk_full", reason=free) if full else log.info("audit.disk_well", reason=free)
