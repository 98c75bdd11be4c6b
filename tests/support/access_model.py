"""A model of access decisions, independent of store and snapshot."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from hashlib import sha256
from typing import NamedTuple

from hsmd.protocol.roles import Role
from hsmd.purposes import Purpose

GOOD_NAMES = ("web", "Web", "web.1")
NAMES = (*GOOD_NAMES, "w\u0435b", "*", "")
"""The last three are not valid names: with a Cyrillic letter, a wildcard, and empty."""
FINGERPRINTS = tuple("SHA256:" + letter * 43 for letter in "abc")
CAS = tuple("SHA256:" + letter * 43 for letter in "yz")
PAIRS = (b"pair 0", b"pair 1", b"pair 2")
DIGESTS = {pair: sha256(pair).digest() for pair in PAIRS}
CEILINGS = (
    frozenset({Purpose.TLS13_SERVER, Purpose.TLS12_SERVER, Purpose.X509_REQUEST}),
    frozenset({Purpose.SIGN_DIGEST, Purpose.SIGN_MESSAGE}),
    frozenset({Purpose.TLS12_RSA_PREMASTER}),
)
CODES = (1, 3, 5, 8, 9, 0x80, 2, 6, 255)
LIFETIME_S = 3_600
"""Validity of every certificate in these tests."""
ENDS_S = (-1, 0, 1, LIFETIME_S, LIFETIME_S + 1)
"""When limited grants end, from the moment at which is decided; a second decision is at the end of the certificates."""


ROLE_SETS = (
    *(frozenset({role}) for role in Role),
    frozenset({Role.FRONT_END, Role.OWNER}),
    frozenset({Role.OPERATOR, Role.FRONT_END}),
    frozenset({Role.OPERATOR, Role.AUDITOR, Role.OWNER}),
    frozenset({Role.AUDITOR, Role.NODE, Role.DEPOSITARY}),
    frozenset({Role.OPERATOR, Role.DEPOSITARY}),
    frozenset[Role](),
)
"""The last two are refused."""


class Made(NamedTuple):
    """The fields that distinguish certificates of a CA."""

    serial: int
    key_id: str
    key: str


CERTIFICATES = (
    Made(1, "a", "SHA256:" + "k" * 43),
    Made(2, "a", FINGERPRINTS[0]),
    Made(3, "1", "SHA256:" + "k" * 43),
)
REVOCATIONS = (
    *(("key", "", each) for each in (*FINGERPRINTS, *CAS, CERTIFICATES[0].key)),
    *(("serial", ca, str(number)) for ca in CAS for number in (1, 2)),
    *(("key-id", ca, text) for ca in CAS for text in ("a", "1")),
)


class Model:
    """The expected results. A client or key is a number that is never reused; names refer to it."""

    def __init__(self) -> None:
        self.numbers = itertools.count()
        self.clients: dict[str, int] = {}
        self.keys: dict[str, int] = {}
        self.roles: dict[int, frozenset[Role]] = {}
        self.owned: set[tuple[int, int]] = set()
        """Client and key, also those that were removed: an owner keeps its keys."""
        self.credential: dict[str, int] = {}
        self.trust: set[tuple[str, int]] = set()
        self.lifetime: dict[str, int] = {}
        self.revoked: set[tuple[str, str, str]] = set()
        self.pair: dict[int, bytes] = {}
        self.ceiling: dict[int, frozenset[Purpose]] = {}
        self.grants: set[tuple[int, int, int]] = set()
        self.limited: dict[tuple[int, int, int], int] = {}
        """Grants that end, and when; none is in `grants` too."""

    def add_client(self, name: str, roles: frozenset[Role], fingerprint: str | None) -> str:
        if name not in GOOD_NAMES or not self.may_be(roles):
            return "BadRequest"
        if name in self.clients or fingerprint in self.credential:
            return "Conflict"
        self.clients[name] = number = next(self.numbers)
        self.roles[number] = roles
        if fingerprint is not None:
            self.credential[fingerprint] = number
        return "done"

    def may_be(self, roles: frozenset[Role]) -> bool:
        return bool(roles) and not (Role.OPERATOR in roles and Role.DEPOSITARY in roles)

    def add_role(self, name: str, role: Role) -> str:
        if name not in self.clients:
            return "NotFound"
        number = self.clients[name]
        if not self.may_be(self.roles[number] | {role}):
            return "BadRequest"
        self.roles[number] |= {role}
        return "done"

    def remove_role(self, name: str, role: Role) -> str:
        if name not in self.clients:
            return "NotFound"
        number = self.clients[name]
        if not self.may_be(self.roles[number] - {role}):
            return "BadRequest"
        if role is Role.OWNER and role in self.roles[number] and number in {owner for owner, _ in self.owned}:
            return "Conflict"
        if role in self.roles[number] and role is Role.FRONT_END:
            self.grants = {each for each in self.grants if each[0] != number}
            self.limited = {each: end for each, end in self.limited.items() if each[0] != number}
        self.roles[number] -= {role}
        return "done"

    def name_reader(self, key: str, client: str) -> str:
        """Add or remove a reader of a key: it reads records and sees no more keys."""
        return "done" if client in self.clients and key in self.keys else "NotFound"

    def add_credential(self, name: str, fingerprint: str) -> str:
        if name not in self.clients:
            return "NotFound"
        if fingerprint in self.credential:
            return "Conflict"
        self.credential[fingerprint] = self.clients[name]
        return "done"

    def remove_client(self, name: str) -> str:
        if name not in self.clients:
            return "NotFound"
        gone = self.clients.pop(name)
        self.trust = {(ca, client) for ca, client in self.trust if client != gone}
        self.lifetime = {
            ca: span for ca, span in self.lifetime.items() if ca in {other for other, _ in self.trust}
        }
        self.credential = {
            fingerprint: owner for fingerprint, owner in self.credential.items() if owner != gone
        }
        return "done"

    def rename(self, things: dict[str, int], name: str, new_name: str) -> str:
        """Rename in `clients` or `keys`: only the name changes."""
        if name not in things:
            return "NotFound"
        if new_name not in GOOD_NAMES:
            return "BadRequest"
        if new_name in things:
            return "Conflict"
        things[new_name] = things.pop(name)
        return "done"

    def revoke(self, kind: str, ca: str, value: str) -> str:
        self.revoked.add((kind, ca, value))
        return "done"

    def distrust_ca(self, ca: str) -> str:
        self.trust = {(other, client) for other, client in self.trust if other != ca}
        return "NotFound" if self.lifetime.pop(ca, None) is None else "done"

    def trust_ca(self, ca: str, clients: Iterable[str], lifetime: int = 86_400) -> str:
        if not set(clients) <= self.clients.keys():
            return "NotFound"
        self.lifetime.pop(ca, None)
        if clients:
            self.lifetime[ca] = lifetime
        self.trust = {(other, client) for other, client in self.trust if other != ca}
        self.trust |= {(ca, self.clients[name]) for name in clients}
        return "done"

    def add_key(self, name: str, pair: bytes, ceiling: frozenset[Purpose], owner: str | None = None) -> str:
        if name not in GOOD_NAMES:
            return "BadRequest"
        if owner is not None and Role.OWNER not in self.roles.get(self.clients.get(owner, -1), ()):
            return "Conflict"
        if name in self.keys or pair in (self.pair[number] for number in self.keys.values()):
            return "Conflict"
        self.keys[name] = number = next(self.numbers)
        self.pair[number], self.ceiling[number] = pair, ceiling
        if owner is not None:
            self.owned.add((self.clients[owner], number))
        return "done"

    def remove_key(self, name: str) -> str:
        return "NotFound" if self.keys.pop(name, None) is None else "done"

    def add_grant(self, client: str, key: str, purposes: frozenset[Purpose], end: int | None = None) -> str:
        """Grant without limits, or until an end."""
        if client not in self.clients or key not in self.keys:
            return "NotFound"
        client_id, key_id = self.clients[client], self.keys[key]
        if (
            Role.FRONT_END not in self.roles[client_id]
            or not purposes
            or not purposes <= self.ceiling[key_id]
        ):
            return "BadRequest"
        wanted = {(client_id, key_id, int(purpose)) for purpose in purposes}
        without_names = Purpose.X509_REQUEST in purposes
        if without_names and end is None:
            return "BadRequest"
        if wanted & (self.limited.keys() if end is None else self.grants):
            return "Conflict"
        if without_names:
            return "BadRequest"
        if end is None:
            self.grants |= wanted
        else:
            self.limited |= dict.fromkeys(wanted, end)
        return "done"

    def remove_grant(self, client: str, key: str, purposes: frozenset[Purpose]) -> str:
        if client not in self.clients or key not in self.keys:
            return "NotFound"
        client_id, key_id = self.clients[client], self.keys[key]
        for code in purposes or range(256):
            self.grants.discard((client_id, key_id, code))
            self.limited.pop((client_id, key_id, code), None)
        return "done"

    def granted(self, client_id: int, key_id: int, code: int, at: int) -> bool:
        """Whether there is a grant at a time, in seconds from the moment at which is decided."""
        grant = (client_id, key_id, code)
        return grant in self.grants or self.limited.get(grant, at) > at

    def by_key(self, user: str, fingerprint: str) -> int | None:
        owner = self.credential.get(fingerprint)
        if ("key", "", fingerprint) in self.revoked:
            return None
        return owner if owner is not None and self.clients.get(user) == owner else None

    def by_certificate(self, user: str, ca: str, principals: list[str], made: Made) -> int | None:
        client_id = self.clients.get(user)
        if self.denied(ca, made) or 0 < self.lifetime.get(ca, 0) < LIFETIME_S:
            return None
        trusted = principals == [user] and (ca, client_id) in self.trust
        return client_id if trusted else None

    def denied(self, ca: str, made: Made) -> bool:
        named = {
            ("serial", ca, str(made.serial)),
            ("key-id", ca, made.key_id),
            ("key", "", made.key),
            ("key", "", ca),
        }
        return bool(named & self.revoked)

    def stands(self, user: str, anchor: str, made: Made | None, roles: frozenset[Role]) -> bool:
        """Whether an identity is still valid: `user` with these roles, by a key or a CA (`anchor`) and its certificate.

        A CA's longest lifetime applies only to new connections.
        """
        if made is None:
            client_id = self.by_key(user, anchor)
        else:
            client_id = self.clients.get(user)
            if self.denied(anchor, made) or (anchor, client_id) not in self.trust:
                client_id = None
        return client_id is not None and all(role in self.roles[client_id] for role in roles)

    def may_use(
        self,
        user: str,
        anchor: str,
        made: Made | None,
        roles: frozenset[Role],
        pair: bytes,
        code: int,
        at: int = 0,
    ) -> bool:
        if not self.stands(user, anchor, made, roles) or Role.FRONT_END not in roles:
            return False
        client_id = self.clients[user]
        return any(
            self.pair[key_id] == pair and self.granted(client_id, key_id, code, at)
            for key_id in self.keys.values()
        )

    def may_see(self, user: str, anchor: str, made: Made | None, roles: frozenset[Role], key: str) -> bool:
        """Whether it may request this key by name.

        Operators and auditors any key, front ends one granted to them, owners one that they own, others none.
        """
        if not self.stands(user, anchor, made, roles):
            return False
        if Role.OPERATOR in roles or Role.AUDITOR in roles:
            return True
        client_id, key_id = self.clients[user], self.keys.get(key)
        if Role.OWNER in roles and (client_id, key_id) in self.owned:
            return True
        return (
            Role.FRONT_END in roles
            and key_id is not None
            and any(self.granted(client_id, key_id, code, 0) for code in range(256))
        )
