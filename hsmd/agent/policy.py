"""The local policy: which users of this host may use which keys. Pure; the daemon also checks what the client may do."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

Users = frozenset[int] | None
"""User ids; None stands for all users that can open the socket."""
ALL_USERS: Users = None
NO_USERS: Users = frozenset()


@dataclass(frozen=True, slots=True)
class Rules:
    """Users by key name; `default` applies to keys without an entry of their own."""

    default: Users = NO_USERS
    by_key: Mapping[str, Users] = field(default_factory=dict)

    def allow(self, uid: int, key_name: str) -> bool:
        """Whether this user may use the key of this name."""
        users = self.by_key.get(key_name, self.default)
        return users is None or uid in users

    def named_users(self) -> frozenset[int]:
        """All users that may use some key, those that `ALL_USERS` stands for aside."""
        return frozenset().union(
            *(users for users in (self.default, *self.by_key.values()) if users is not None)
        )

    def keys_for(self, uid: int, keys: Iterable[tuple[str, bytes]]) -> frozenset[bytes]:
        """The digests of those keys, given as (name, digest) pairs, that this user may use."""
        return frozenset(digest for name, digest in keys if self.allow(uid, name))
