"""Store and snapshot against a model of sixty lines that knows neither: same grants, same identities, same decisions.

Hypothesis drives clients, credentials, CAs, keys and grants in any order, with names that come back after a removal and
names that only look alike. After every change all identities seen so far, old ones too, ask for every key and purpose.
`HSMD_MODEL_EXAMPLES` and `HSMD_MODEL_STEPS` raise the count.
"""

from __future__ import annotations

import itertools
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings, strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from hsmd.algorithms import KeyType
from hsmd.daemon.access import Grant, Identity, Role, Snapshot
from hsmd.daemon.store import CredentialRecord, KeyRecord, Store
from hsmd.errors import HsmdError
from hsmd.purposes import Purpose

EXAMPLES = int(os.environ.get("HSMD_MODEL_EXAMPLES", "12"))
STEPS = int(os.environ.get("HSMD_MODEL_STEPS", "50"))
MEMORY = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
"""Where a sync costs nothing."""

NOW = datetime(2026, 1, 1, tzinfo=UTC)
NAMES = ("web", "Web", "web.1", "w\u0435b", "*", "")
"""The last three are not names: a Cyrillic letter, a wildcard, nothing."""
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

names = st.sampled_from(NAMES[:3] * 3 + NAMES[3:])
good_names = st.sampled_from(NAMES[:3])
some_purposes = st.frozensets(st.sampled_from([Purpose(code) for code in CODES[:7]]), max_size=3)


class Model:
    """What must hold, said a second time. A client or key is a number that never comes back; names only point at it."""

    def __init__(self) -> None:
        self.numbers = itertools.count()
        self.clients: dict[str, int] = {}
        self.keys: dict[str, int] = {}
        self.role: dict[int, Role] = {}
        self.credential: dict[str, int] = {}
        self.trust: set[tuple[str, int]] = set()
        self.pair: dict[int, bytes] = {}
        self.ceiling: dict[int, frozenset[Purpose]] = {}
        self.grants: set[tuple[int, int, int]] = set()

    def add_client(self, name: str, role: Role, fingerprint: str | None) -> str:
        if name not in NAMES[:3]:
            return "BadRequest"
        if name in self.clients or fingerprint in self.credential:
            return "Conflict"
        self.clients[name] = number = next(self.numbers)
        self.role[number] = role
        if fingerprint is not None:
            self.credential[fingerprint] = number
        return "done"

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
        self.credential = {
            fingerprint: owner for fingerprint, owner in self.credential.items() if owner != gone
        }
        return "done"

    def trust_ca(self, ca: str, clients: Iterable[str]) -> str:
        if not set(clients) <= self.clients.keys():
            return "NotFound"
        self.trust = {(other, client) for other, client in self.trust if other != ca}
        self.trust |= {(ca, self.clients[name]) for name in clients}
        return "done"

    def add_key(self, name: str, pair: bytes, ceiling: frozenset[Purpose]) -> str:
        if name not in NAMES[:3]:
            return "BadRequest"
        if name in self.keys or pair in (self.pair[number] for number in self.keys.values()):
            return "Conflict"
        self.keys[name] = number = next(self.numbers)
        self.pair[number], self.ceiling[number] = pair, ceiling
        return "done"

    def remove_key(self, name: str) -> str:
        return "NotFound" if self.keys.pop(name, None) is None else "done"

    def add_grant(self, client: str, key: str, purposes: frozenset[Purpose]) -> str:
        if client not in self.clients or key not in self.keys:
            return "NotFound"
        who, what = self.clients[client], self.keys[key]
        fine = (
            bool(purposes) and purposes <= self.ceiling[what] and all(purpose < 0x80 for purpose in purposes)
        )
        if self.role[who] is not Role.FRONT_END or not fine:
            return "BadRequest"
        self.grants |= {(who, what, int(purpose)) for purpose in purposes}
        return "done"

    def remove_grant(self, client: str, key: str, purposes: frozenset[Purpose]) -> str:
        if client not in self.clients or key not in self.keys:
            return "NotFound"
        who, what = self.clients[client], self.keys[key]
        self.grants -= {(who, what, code) for code in (purposes or range(256))}
        return "done"

    def by_key(self, user: str, fingerprint: str) -> int | None:
        owner = self.credential.get(fingerprint)
        return owner if owner is not None and self.clients.get(user) == owner else None

    def by_certificate(self, user: str, ca: str, principals: list[str]) -> int | None:
        who = self.clients.get(user)
        return who if who is not None and principals == [user] and (ca, who) in self.trust else None

    def stands(self, user: str, anchor: str, role: Role) -> bool:
        """Could somebody come as `user` with what `anchor` vouches for now, in this role?"""
        who = (
            self.by_key(user, anchor) if anchor in FINGERPRINTS else self.by_certificate(user, anchor, [user])
        )
        return who is not None and self.role[who] is role

    def may_use(self, user: str, anchor: str, role: Role, pair: bytes, code: int) -> bool:
        if not self.stands(user, anchor, role):
            return False
        who = self.clients[user]
        return any(
            self.pair[what] == pair and (who, what, code) in self.grants for what in self.keys.values()
        )


class AccessMachine(RuleBasedStateMachine):
    """Does everything twice: to a store on SQLite, and to the model."""

    steps = 0
    decisions = 0
    allowed = 0

    @initialize(pair=st.sampled_from(PAIRS))
    def begin(self, pair: bytes) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="hsmd-model-", dir=MEMORY))
        self.store = Store(f"sqlite:///{self.directory}/store.db")
        self.store.migrate()
        self.model = Model()
        self.identities: dict[Identity, str] = {}
        self.snapshot = Snapshot.build(self.store.load())
        self.checked = -1
        self.add_front_end("web", FINGERPRINTS[0])
        self.add_key("web", pair, CEILINGS[0])
        self.add_grant_of_all("web", "web")
        self.trust_ca(CAS[0], ["web"])

    def teardown(self) -> None:
        if hasattr(self, "store"):
            self.store.close()
            shutil.rmtree(self.directory)

    def both(self, expected: str, action: Callable[[], object]) -> None:
        try:
            action()
            outcome = "done"
        except HsmdError as error:
            outcome = type(error).__name__
        assert outcome == expected
        self.snapshot = Snapshot.build(self.store.load())
        type(self).steps += 1

    # --- changes ---

    @rule(name=names, role=st.sampled_from(Role), fingerprint=st.none() | st.sampled_from(FINGERPRINTS))
    def add_client(self, name: str, role: Role, fingerprint: str | None) -> None:
        credential = None if fingerprint is None else CredentialRecord(fingerprint, "line")
        expected = self.model.add_client(name, role, fingerprint)
        self.both(expected, lambda: self.store.add_client(name, role, NOW, credential))

    @rule(name=good_names, fingerprint=st.sampled_from(FINGERPRINTS))
    def add_front_end(self, name: str, fingerprint: str) -> None:
        self.add_client(name, Role.FRONT_END, fingerprint)

    @rule(name=names, fingerprint=st.sampled_from(FINGERPRINTS))
    def add_credential(self, name: str, fingerprint: str) -> None:
        expected = self.model.add_credential(name, fingerprint)
        self.both(expected, lambda: self.store.add_credential(name, fingerprint, "line"))

    @rule(name=names)
    def remove_client(self, name: str) -> None:
        self.both(self.model.remove_client(name), lambda: self.store.remove_client(name))

    @rule(ca=st.sampled_from(CAS), clients=st.lists(good_names, max_size=3))
    def trust_ca(self, ca: str, clients: list[str]) -> None:
        self.both(self.model.trust_ca(ca, clients), lambda: self.store.trust_ca(ca, "line", clients))

    @rule(name=names, pair=st.sampled_from(PAIRS), ceiling=st.sampled_from(CEILINGS))
    def add_key(self, name: str, pair: bytes, ceiling: frozenset[Purpose]) -> None:
        key = KeyRecord(name, KeyType.RSA_2048, DIGESTS[pair], pair, ceiling, "main", NOW)
        self.both(self.model.add_key(name, pair, ceiling), lambda: self.store.add_key(key))

    @rule(name=names)
    def remove_key(self, name: str) -> None:
        self.both(self.model.remove_key(name), lambda: self.store.remove_key(name))

    @rule(client=names, key=names, purposes=some_purposes)
    def add_grant(self, client: str, key: str, purposes: frozenset[Purpose]) -> None:
        expected = self.model.add_grant(client, key, purposes)
        self.both(expected, lambda: self.store.add_grant(client, key, purposes))

    @rule(client=good_names, key=good_names)
    def add_grant_of_all(self, client: str, key: str) -> None:
        number = self.model.keys.get(key)
        ceiling = CEILINGS[0] if number is None else self.model.ceiling[number]
        self.add_grant(client, key, frozenset(purpose for purpose in ceiling if purpose < 0x80))

    @rule(client=names, key=names, purposes=some_purposes)
    def remove_grant(self, client: str, key: str, purposes: frozenset[Purpose]) -> None:
        expected = self.model.remove_grant(client, key, purposes)
        self.both(expected, lambda: self.store.remove_grant(client, key, purposes))

    # --- what must agree after every change ---

    @invariant()
    def everything_agrees(self) -> None:
        if not hasattr(self, "snapshot") or self.checked == self.snapshot.version:
            return
        self.checked = self.snapshot.version
        self.connect_with_keys()
        self.connect_with_certificates()
        self.ask_for_keys()

    def connect_with_keys(self) -> None:
        for user, fingerprint in itertools.product(NAMES, FINGERPRINTS + CAS):
            identity = self.snapshot.identify_key(user, fingerprint)
            self.compare_identity(identity, self.model.by_key(user, fingerprint), user, fingerprint)

    def connect_with_certificates(self) -> None:
        for user, ca, other in itertools.product(NAMES, CAS + FINGERPRINTS, NAMES):
            for principals in ([other], [user, other], []):
                decision = self.snapshot.identify_certificate(
                    user, ca_fingerprint=ca, principals=principals, critical_options={}, valid_after=NOW,
                    valid_before=NOW + timedelta(hours=1), serial=1, key_id="id", key_fingerprint="K", peer_address="192.0.2.1", now=NOW,
                )  # fmt: skip
                identity = decision if isinstance(decision, Identity) else None
                self.compare_identity(identity, self.model.by_certificate(user, ca, principals), user, ca)

    def compare_identity(self, identity: Identity | None, number: int | None, user: str, anchor: str) -> None:
        assert (identity is None) == (number is None), (user, anchor)
        if identity is not None and number is not None:
            assert (identity.client, identity.role) == (user, self.model.role[number])
            self.identities[identity] = anchor

    def ask_for_keys(self) -> None:
        for identity, anchor in self.identities.items():
            assert self.snapshot.knows(identity) is self.model.stands(identity.client, anchor, identity.role)
        for (identity, anchor), pair, code in itertools.product(self.identities.items(), PAIRS, CODES):
            decision = self.snapshot.decide(identity, DIGESTS[pair], code, NOW)
            expected = self.model.may_use(identity.client, anchor, identity.role, pair, code)
            assert isinstance(decision, Grant) is expected, (identity, pair, code, decision)
            late = self.snapshot.decide(identity, DIGESTS[pair], code, NOW + timedelta(hours=1))
            assert isinstance(late, Grant) is (expected and identity.expires_at is None)
            type(self).decisions += 2
            type(self).allowed += expected


@pytest.mark.timeout(900)  # a counterexample takes minutes to shrink
def test_store_and_snapshot_decide_like_the_model() -> None:
    AccessMachine.steps = AccessMachine.decisions = AccessMachine.allowed = 0
    # Long runs find more than short ones here; a database for each example takes longer than Hypothesis likes.
    profile = settings(
        max_examples=EXAMPLES,
        stateful_step_count=STEPS,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    machine = AccessMachine.TestCase()
    machine.settings = profile
    machine.runTest()
    counts = (AccessMachine.steps, AccessMachine.decisions, AccessMachine.allowed)
    print("{} changes, {} decisions, {} of them grants, no difference".format(*counts))
    assert AccessMachine.decisions > 100 * EXAMPLES
    assert AccessMachine.allowed > EXAMPLES
