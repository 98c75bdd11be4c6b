"""Whether the audit log continues what the store remembers of it; if not, no key is used until an operator declares why."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from hsmd import observe
from hsmd.daemon.audit.log import AuditLog
from hsmd.daemon.front.access.snapshot_cache import SnapshotCache
from hsmd.daemon.front.signing.hold import KeyHold, Reason
from hsmd.daemon.store.records import AuditHead
from hsmd.errors import AuditFailure
from hsmd.transparency.discontinuity import EVENT, Discontinuity, to_fields
from hsmd.transparency.note import Note

log = observe.logger()


class Continuity:
    """What is remembered of one log, and the discontinuities declared for it (rendered notes, oldest first)."""

    def __init__(
        self,
        origin: str,
        *,
        audit: AuditLog,
        cache: SnapshotCache,
        hold: KeyHold,
        remembered: AuditHead | None,
        discontinuities: list[str],
    ) -> None:
        """`remembered` is the newest state of this log that the store knows; a shorter log is detected here."""
        self._origin = origin
        self._audit = audit
        self._cache = cache
        self._hold = hold
        self._compared = False
        self.remembered = remembered
        self.discontinuities = discontinuities
        self.broken = ""
        """Why the log does not continue what is remembered; empty if it does, as far as it was compared."""
        if remembered is not None and audit.size < remembered.size:
            self._break(f"it has {audit.size} records; it had {remembered.size}")

    async def holds(self, root_at: Callable[[int], Awaitable[bytes]]) -> bool:
        """Whether the log continues what is remembered; `root_at(size)` is the root of its first `size` records."""
        known = self.remembered
        if not (self._compared or self.broken or known is None):
            if await root_at(known.size) != known.root:
                self._break(f"its first {known.size} records are not those it had")
            self._compared = True
        return not self.broken

    async def remember(self, head: AuditHead) -> None:
        """Have the store remember the state that a checkpoint was just signed for. Raises StoreFailure."""
        await self._cache.change_unversioned(lambda tx: tx.audit_logs.advance_head(head))
        self.remembered = head

    async def record(self, client: str, found: Discontinuity, note: Note) -> None:
        """Record a declaration that was checked against the log, and continue from the state it declares.

        Raises AuditFailure or StoreFailure; the log is then held, or not, as before.
        """
        text = note.render()
        self._audit.event(EVENT, client, **to_fields(note))
        await self._audit.commit_durable()
        head = AuditHead(found.origin, found.new.size, found.new.root, found.key)
        await self._cache.change(lambda tx: tx.audit_logs.declare_discontinuity(head, found.time, text))
        self.discontinuities.append(text)
        self.remembered = head
        self.broken = ""
        self._hold.set(Reason.CONTINUITY, None)
        log.warning("audit.discontinuity", client=client, reason=found.reason)

    def _break(self, reason: str) -> None:
        self.broken = (
            f"the audit log of {self._origin} does not continue the log as remembered: {reason}; if it was restored "
            "from a backup, declare that with: hsmd audit discontinuity --reason TEXT"
        )
        log.error("audit.behind", reason=self.broken)
        self._hold.set(Reason.CONTINUITY, AuditFailure(detail=self.broken))
