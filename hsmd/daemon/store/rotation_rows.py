"""Rows of a client's key and its successor, within one transaction.

A client can add one further key to itself; once it has connected with that key, it can remove the one it replaces.
"""

from __future__ import annotations

from sqlalchemy import Connection, delete, select, update

from hsmd.daemon.store.client_rows import Clients
from hsmd.daemon.store.records import CredentialRecord
from hsmd.daemon.store.tables import credentials, revocations
from hsmd.errors import BadRequest, Conflict, Refused


class Rotations:
    """Replacements of clients' keys that are in progress."""

    def __init__(self, connection: Connection, client_rows: Clients) -> None:
        self._connection = connection
        self._clients = client_rows

    def begin(self, client: str, current: str, successor: CredentialRecord) -> bool:
        """Add a successor of the client's key `current` (fingerprint); return whether it is new.

        The caller has verified that the client has the private key. Raises NotFound, Refused if the client no longer has
        `current`, BadRequest for a key that is revoked or that any client has, Conflict if another successor exists. The caller
        decided on a snapshot that may be older than the removal or revocation of `current`, and such a key must not add another.
        """
        if self.is_begun(client, current, successor.fingerprint):
            return False
        try:
            self._clients.add_credential(client, successor)
        except Conflict:
            raise _unusable() from None
        added = credentials.c.fingerprint == successor.fingerprint
        self._connection.execute(update(credentials).where(added).values(successor_of=current))
        return True

    def is_begun(self, client: str, current: str, successor: str) -> bool:
        """Whether `begin` would change nothing. Raises what it raises, but for a key that a client has."""
        client_id = self._clients.find_id(client)
        if not self._has_key(client_id, current) or self._is_revoked(current):
            raise Refused(detail="the key that the client connected with was removed or revoked meanwhile")
        if self._is_revoked(successor):
            raise _unusable()
        in_progress = select(credentials).where(
            credentials.c.client_id == client_id, credentials.c.successor_of.is_not(None)
        )
        for row in self._connection.execute(in_progress):
            if (row.fingerprint, row.successor_of) == (successor, current):
                return True
            raise Conflict(
                "this client has a next key already; finish with that one, or have an operator revoke it"
            )
        return False

    def is_finished(self, client: str, current: str) -> bool:
        """Whether `finish` would change nothing. Raises NotFound."""
        return self._previous(self._clients.find_id(client), current) is None

    def finish(self, client: str, current: str) -> bool:
        """Remove the key that `current` is the successor of; return whether there was one. Raises NotFound."""
        client_id = self._clients.find_id(client)
        previous = self._previous(client_id, current)
        if previous is None:
            return False
        successor = (credentials.c.fingerprint == current) & (credentials.c.client_id == client_id)
        self._connection.execute(update(credentials).where(successor).values(successor_of=None))
        replaced = (credentials.c.fingerprint == previous) & (credentials.c.client_id == client_id)
        self._connection.execute(delete(credentials).where(replaced))
        return True

    def end(self, revoked: str) -> None:
        """End the rotation in which a revoked key (fingerprint) is the old or the next key.

        The successor of a stolen key may be the thief's, and a revoked successor would block every other one.
        """
        involved = (credentials.c.fingerprint == revoked) | (credentials.c.successor_of == revoked)
        self._connection.execute(delete(credentials).where(involved, credentials.c.successor_of.is_not(None)))

    def _previous(self, client_id: int, current: str) -> str | None:
        """The key that `current` is the successor of."""
        same = (credentials.c.fingerprint == current) & (credentials.c.client_id == client_id)
        previous: str | None = self._connection.scalar(select(credentials.c.successor_of).where(same))
        return previous

    def _has_key(self, client_id: int, fingerprint: str) -> bool:
        same = (credentials.c.fingerprint == fingerprint) & (credentials.c.client_id == client_id)
        return self._connection.execute(select(credentials.c.fingerprint).where(same)).first() is not None

    def _is_revoked(self, fingerprint: str) -> bool:
        same = (revocations.c.kind == "key") & (revocations.c.value == fingerprint)
        return self._connection.execute(select(revocations.c.value).where(same)).first() is not None


def _unusable() -> BadRequest:
    """One text, whether the key is revoked, the client's own or another client's: a client learns of no other one's keys."""
    return BadRequest("public_key: this key is in use or was revoked; generate a new one")
