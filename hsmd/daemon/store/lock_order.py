"""The order in which a transaction takes row locks that others take too, so that no two wait for each other."""

from __future__ import annotations

from enum import IntEnum

from hsmd.errors import InternalFault


class Lock(IntEnum):
    """Kinds of locks in the order in which they are taken; those of one kind in the order of their names."""

    STATE = 1
    LEASE = 2
    CLIENT = 3
    NODE_PERMIT = 4
    VAULT_OWNER = 5
    VAULT_VERSION = 6
    GRANT = 7
    COUNTER = 8
    LEDGER = 9
    COUNTED_USES = 10
    VAULT_ACQUISITIONS = 11


class LockOrder:
    """Notes the locks of one transaction."""

    def __init__(self) -> None:
        self._newest: tuple[Lock, str] | None = None

    def take(self, lock: Lock, name: str = "") -> None:
        """To be called before the statement that takes a lock. Raises InternalFault if it comes too late."""
        taken = (lock, name)
        if self._newest is not None and taken < self._newest:
            raise InternalFault(
                detail=f"lock {lock.name} {name!r} is taken after {self._newest[0].name} {self._newest[1]!r}"
            )
        self._newest = taken
