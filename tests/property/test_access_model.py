"""Store and snapshot against an independent model: same grants, same identities, same decisions.

Snapshots are brought up to date by differences, after each change and after several ones, and compared with whole ones.

Clients, roles, credentials, CAs, keys, grants, grants that end, owners, readers, renames and revocations in any order, with names that are reused after a removal or
rename, and names that look alike. Hypothesis drives few long runs: after every change, all identities seen so far
request every key and purpose. A seeded generator drives many short ones, which request some.
`HSMD_MODEL_EXAMPLES`, `HSMD_MODEL_STEPS` and `HSMD_MODEL_SEQUENCES` raise the counts.
"""

from __future__ import annotations

import itertools
import os
import random
import shutil
import tempfile
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings, strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from hsmd.algorithms import KeyType
from hsmd.daemon.front.access import Grant, Identity, Snapshot
from hsmd.daemon.front.access.identity import NO_END
from hsmd.daemon.store import (
    CredentialRecord,
    KeyOwner,
    KeyRecord,
    Limits,
    RevocationRecord,
    Store,
    Transaction,
)
from hsmd.errors import HsmdError
from hsmd.protocol.messages import ClientRemove, KeyShow
from hsmd.protocol.roles import AT_OPERATOR_ADDRESSES, Role
from hsmd.purposes import Purpose
from tests.support.access_model import (
    CAS,
    CEILINGS,
    CERTIFICATES,
    CODES,
    DIGESTS,
    ENDS_S,
    FINGERPRINTS,
    GOOD_NAMES,
    LIFETIME_S,
    NAMES,
    PAIRS,
    REVOCATIONS,
    ROLE_SETS,
    Made,
    Model,
)
from tests.support.snapshots import snapshot_of

EXAMPLES = int(os.environ.get("HSMD_MODEL_EXAMPLES", "8"))
STEPS = int(os.environ.get("HSMD_MODEL_STEPS", "50"))
SEQUENCES = int(os.environ.get("HSMD_MODEL_SEQUENCES", "300"))
FRONT_END = frozenset({Role.FRONT_END})
CHANGES = 8
"""Changes in each short sequence, after a start with a client, a key and a grant."""
LATE = 5
"""Changes that another daemon reads at once."""
MEMORY = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
"""A directory in memory, where syncing costs nothing."""
NOW = datetime(2026, 1, 1, tzinfo=UTC)
CERTIFICATE_END = timedelta(seconds=LIFETIME_S)

names = st.sampled_from(GOOD_NAMES * 3 + NAMES[3:])
good_names = st.sampled_from(GOOD_NAMES)
some_purposes = st.frozensets(st.sampled_from([Purpose(code) for code in CODES[:7]]), max_size=3)


class Pair:
    """A store on SQLite and the model: every change is made to both, and both must have the same result."""

    def __init__(self) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="hsmd-model-", dir=MEMORY))
        self.store = Store(f"sqlite:///{self.directory}/store.db")
        self.store.migrate()
        self.steps = self.decisions = self.allowed = 0
        self.begin()

    def begin(self) -> None:
        """Start with a new model, for an empty store."""
        self.model = Model()
        self.identities: dict[Identity, tuple[str, Made | None]] = {}
        self.snapshot = self.late = Snapshot.of(self.store.difference(None))

    def close(self) -> None:
        self.store.close()
        shutil.rmtree(self.directory)

    def both(self, expected: str, action: Callable[[Transaction], object]) -> None:
        try:
            self.store.change(action)
            outcome = "done"
        except HsmdError as error:
            outcome = type(error).__name__
        assert outcome == expected
        self.refresh()
        self.steps += 1

    def refresh(self) -> None:
        """Follow the store as daemons do, some of which poll rarely; each must then decide from the same as one that starts."""
        self.snapshot = self.snapshot.updated(self.store.difference(self.snapshot.standing))
        whole = Snapshot.of(self.store.difference(None))
        assert self.snapshot.index == whole.index
        assert snapshot_of(self.store.load()).grant_count == whole.grant_count
        if self.steps % LATE == 0:
            difference = self.store.difference(self.late.standing)
            assert not difference.whole
            self.late = self.late.updated(difference)
            assert self.late.index == whole.index

    # --- changes ---

    def add_client(self, name: str, roles: frozenset[Role], fingerprint: str | None) -> None:
        credential = None if fingerprint is None else CredentialRecord(fingerprint, "line")
        expected = self.model.add_client(name, roles, fingerprint)
        self.both(expected, lambda tx: tx.clients.add(name, roles, NOW, credential))

    def add_role(self, name: str, role: Role) -> None:
        self.both(self.model.add_role(name, role), lambda tx: tx.clients.add_role(name, role))

    def remove_role(self, name: str, role: Role) -> None:
        self.both(self.model.remove_role(name, role), lambda tx: tx.clients.remove_role(name, role))

    def add_reader(self, key: str, client: str) -> None:
        self.both(self.model.name_reader(key, client), lambda tx: tx.readers.add(key, client))

    def remove_reader(self, key: str, client: str) -> None:
        self.both(self.model.name_reader(key, client), lambda tx: tx.readers.remove(key, client))

    def add_credential(self, name: str, fingerprint: str) -> None:
        expected = self.model.add_credential(name, fingerprint)
        self.both(
            expected,
            lambda tx: tx.clients.add_credential(name, CredentialRecord(fingerprint, "line")),
        )

    def remove_client(self, name: str) -> None:
        self.both(self.model.remove_client(name), lambda tx: tx.clients.remove(name))

    def rename_client(self, name: str, new_name: str) -> None:
        expected = self.model.rename(self.model.clients, name, new_name)
        self.both(expected, lambda tx: tx.clients.rename(name, new_name))

    def trust_ca(self, ca: str, clients: list[str], lifetime: int) -> None:
        expected = self.model.trust_ca(ca, clients, lifetime)
        self.both(expected, lambda tx: tx.user_cas.trust(ca, "line", clients, lifetime))

    def distrust_ca(self, ca: str) -> None:
        self.both(self.model.distrust_ca(ca), lambda tx: tx.user_cas.distrust(ca))

    def revoke(self, revoked: tuple[str, str, str]) -> None:
        self.both(
            self.model.revoke(*revoked),
            lambda tx: tx.revocations.add(RevocationRecord(*revoked, NOW)),
        )

    def add_key(self, name: str, pair: bytes, ceiling: frozenset[Purpose], owner: str | None = None) -> None:
        belongs = None if owner is None else KeyOwner(owner)
        key = KeyRecord(name, KeyType.RSA_2048, DIGESTS[pair], pair, ceiling, "main", NOW, owner=belongs)
        self.both(self.model.add_key(name, pair, ceiling, owner), lambda tx: tx.keys.add(key))

    def remove_key(self, name: str) -> None:
        self.both(self.model.remove_key(name), lambda tx: tx.keys.remove(name))

    def rename_key(self, name: str, new_name: str) -> None:
        expected = self.model.rename(self.model.keys, name, new_name)
        self.both(expected, lambda tx: tx.keys.rename(name, new_name))

    def add_grant(self, client: str, key: str, purposes: frozenset[Purpose]) -> None:
        expected = self.model.add_grant(client, key, purposes)
        self.both(expected, lambda tx: tx.grants.add(client, key, purposes))

    def add_grant_of_all(self, client: str, key: str) -> None:
        number = self.model.keys.get(key)
        ceiling = CEILINGS[0] if number is None else self.model.ceiling[number]
        self.add_grant(client, key, frozenset(purpose for purpose in ceiling if purpose < 0x80))

    def limit_grant(self, client: str, key: str, purposes: frozenset[Purpose], end_s: int) -> None:
        """Grant until an end, which may be over: it was granted the day before."""
        expected = self.model.add_grant(client, key, purposes, end_s)
        limits = Limits(not_after=NOW + timedelta(seconds=end_s))
        self.both(
            expected, lambda tx: tx.limited_grants.add(client, key, purposes, limits, NOW - timedelta(days=1))
        )

    def limit_grant_of_all(self, client: str, key: str, end_s: int) -> None:
        """As `add_grant_of_all`, instead of what was granted before."""
        self.remove_grant(client, key, frozenset())
        number = self.model.keys.get(key)
        ceiling = CEILINGS[0] if number is None else self.model.ceiling[number]
        self.limit_grant(client, key, frozenset(purpose for purpose in ceiling if purpose < 0x80), end_s)

    def remove_grant(self, client: str, key: str, purposes: frozenset[Purpose]) -> None:
        expected = self.model.remove_grant(client, key, purposes)
        self.both(expected, lambda tx: tx.grants.remove(client, key, purposes))

    # --- what must agree ---

    def connect_with_key(self, user: str, fingerprint: str) -> None:
        identity = self.snapshot.identities.identify_key(user, fingerprint)
        self.compare(identity, self.model.by_key(user, fingerprint), user, fingerprint, None)

    def connect_with_certificate(self, user: str, ca: str, principals: list[str], made: Made) -> None:
        decision = self.snapshot.identities.identify_certificate(
            user,
            ca_fingerprint=ca,
            principals=principals,
            critical_options={},
            valid_after=NOW,
            valid_before=NOW + CERTIFICATE_END,
            serial=made.serial,
            key_id=made.key_id,
            key_fingerprint=made.key,
            peer_address="192.0.2.1",
            now=NOW,
        )
        identity = decision if isinstance(decision, Identity) else None
        self.compare(identity, self.model.by_certificate(user, ca, principals, made), user, ca, made)

    def compare(
        self, identity: Identity | None, number: int | None, user: str, anchor: str, made: Made | None
    ) -> None:
        assert (identity is None) == (number is None), (user, anchor, made)
        self.decisions += 1
        if identity is not None and number is not None:
            assert (identity.client, identity.roles) == (user, self.model.roles[number])
            for at in (frozenset(Role), AT_OPERATOR_ADDRESSES, frozenset(Role) - AT_OPERATOR_ADDRESSES):
                if identity.at(at).roles:
                    self.identities[identity.at(at)] = (anchor, made)

    def ask(self, identity: Identity, pair: bytes, code: int) -> None:
        anchor, made = self.identities[identity]
        decision = self.snapshot.decide(identity, DIGESTS[pair], code, NOW)
        expected = self.model.may_use(identity.client, anchor, made, identity.roles, pair, code)
        assert isinstance(decision, Grant) is expected, (identity, pair, code, decision)
        late = self.snapshot.decide(identity, DIGESTS[pair], code, NOW + CERTIFICATE_END)
        still = self.model.may_use(identity.client, anchor, made, identity.roles, pair, code, LIFETIME_S)
        assert isinstance(late, Grant) is (still and identity.expires_at == NO_END)
        self.decisions += 2
        self.allowed += expected

    def ask_for_control(self, identity: Identity, name: str) -> None:
        anchor, made = self.identities[identity]
        stands = self.model.stands(identity.client, anchor, made, identity.roles)
        assert self.snapshot.identities.knows(identity) is stands
        denial = self.snapshot.decide_request(identity, KeyShow(name), NOW)
        assert (denial is None) is self.model.may_see(identity.client, anchor, made, identity.roles, name)
        denial = self.snapshot.decide_request(identity, ClientRemove(name), NOW)
        assert (denial is None) is (stands and Role.OPERATOR in identity.roles)
        self.decisions += 3


class AccessMachine(RuleBasedStateMachine):
    """Few long runs, which request everything."""

    steps = decisions = allowed = 0

    @initialize(pair=st.sampled_from(PAIRS))
    def begin(self, pair: bytes) -> None:
        self.pair = Pair()
        self.checked = -1
        begin_with_a_grant(self.pair, pair)

    def teardown(self) -> None:
        if hasattr(self, "pair"):
            self.pair.close()
            for count in ("steps", "decisions", "allowed"):
                setattr(AccessMachine, count, getattr(AccessMachine, count) + getattr(self.pair, count))

    @rule(name=names, roles=st.sampled_from(ROLE_SETS), fingerprint=st.none() | st.sampled_from(FINGERPRINTS))
    def add_client(self, name: str, roles: frozenset[Role], fingerprint: str | None) -> None:
        self.pair.add_client(name, roles, fingerprint)

    @rule(name=good_names, fingerprint=st.sampled_from(FINGERPRINTS))
    def add_front_end(self, name: str, fingerprint: str) -> None:
        self.pair.add_client(name, FRONT_END, fingerprint)

    @rule(name=names, role=st.sampled_from(Role))
    def add_role(self, name: str, role: Role) -> None:
        self.pair.add_role(name, role)

    @rule(name=names, role=st.sampled_from(Role))
    def remove_role(self, name: str, role: Role) -> None:
        self.pair.remove_role(name, role)

    @rule(key=names, client=names)
    def add_reader(self, key: str, client: str) -> None:
        self.pair.add_reader(key, client)

    @rule(key=names, client=names)
    def remove_reader(self, key: str, client: str) -> None:
        self.pair.remove_reader(key, client)

    @rule(name=names, fingerprint=st.sampled_from(FINGERPRINTS))
    def add_credential(self, name: str, fingerprint: str) -> None:
        self.pair.add_credential(name, fingerprint)

    @rule(name=names)
    def remove_client(self, name: str) -> None:
        self.pair.remove_client(name)

    @rule(name=names, new_name=names)
    def rename_client(self, name: str, new_name: str) -> None:
        self.pair.rename_client(name, new_name)

    @rule(
        ca=st.sampled_from(CAS),
        clients=st.lists(good_names, max_size=3),
        lifetime=st.sampled_from([0, 60, 3_600]),
    )
    def trust_ca(self, ca: str, clients: list[str], lifetime: int) -> None:
        self.pair.trust_ca(ca, clients, lifetime)

    @rule(ca=st.sampled_from(CAS))
    def distrust_ca(self, ca: str) -> None:
        self.pair.distrust_ca(ca)

    @rule(revoked=st.sampled_from(REVOCATIONS))
    def revoke(self, revoked: tuple[str, str, str]) -> None:
        self.pair.revoke(revoked)

    @rule(
        name=names,
        pair=st.sampled_from(PAIRS),
        ceiling=st.sampled_from(CEILINGS),
        owner=st.none() | names,
    )
    def add_key(self, name: str, pair: bytes, ceiling: frozenset[Purpose], owner: str | None) -> None:
        self.pair.add_key(name, pair, ceiling, owner)

    @rule(name=names)
    def remove_key(self, name: str) -> None:
        self.pair.remove_key(name)

    @rule(name=names, new_name=names)
    def rename_key(self, name: str, new_name: str) -> None:
        self.pair.rename_key(name, new_name)

    @rule(client=names, key=names, purposes=some_purposes)
    def add_grant(self, client: str, key: str, purposes: frozenset[Purpose]) -> None:
        self.pair.add_grant(client, key, purposes)

    @rule(client=good_names, key=good_names)
    def add_grant_of_all(self, client: str, key: str) -> None:
        self.pair.add_grant_of_all(client, key)

    @rule(client=names, key=names, purposes=some_purposes, end_s=st.sampled_from(ENDS_S))
    def limit_grant(self, client: str, key: str, purposes: frozenset[Purpose], end_s: int) -> None:
        self.pair.limit_grant(client, key, purposes, end_s)

    @rule(client=good_names, key=good_names, end_s=st.sampled_from(ENDS_S))
    def limit_grant_of_all(self, client: str, key: str, end_s: int) -> None:
        self.pair.limit_grant_of_all(client, key, end_s)

    @rule(client=names, key=names, purposes=some_purposes)
    def remove_grant(self, client: str, key: str, purposes: frozenset[Purpose]) -> None:
        self.pair.remove_grant(client, key, purposes)

    @invariant()
    def everything_agrees(self) -> None:
        if not hasattr(self, "pair") or self.checked == self.pair.snapshot.version:
            return
        self.checked = self.pair.snapshot.version
        for user, fingerprint in itertools.product(NAMES, FINGERPRINTS + CAS):
            self.pair.connect_with_key(user, fingerprint)
        for user, ca, other in itertools.product(NAMES, CAS + FINGERPRINTS[:1], NAMES):
            for principals, made in itertools.product(([other], [user, other], []), CERTIFICATES):
                self.pair.connect_with_certificate(user, ca, principals, made)
        for identity, pair, code in itertools.product(self.pair.identities, PAIRS, CODES):
            self.pair.ask(identity, pair, code)
        for identity, name in itertools.product(self.pair.identities, NAMES[:4]):
            self.pair.ask_for_control(identity, name)


def begin_with_a_grant(both: Pair, pair: bytes) -> None:
    """Add a front end with a grant, which can authenticate with a key or a certificate."""
    both.add_client("web", FRONT_END, FINGERPRINTS[0])
    both.add_key("web", pair, CEILINGS[0])
    both.add_grant_of_all("web", "web")
    both.trust_ca(CAS[0], ["web"], 86_400)


@pytest.mark.timeout(900)  # a counterexample takes minutes to shrink
def test_store_and_snapshot_decide_like_the_model() -> None:
    AccessMachine.steps = AccessMachine.decisions = AccessMachine.allowed = 0
    # Long runs find more than short ones; a database for each example exceeds Hypothesis's deadline.
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


# --- many short sequences ---


class Sequences:
    """Draws changes and requests from a seeded generator."""

    def __init__(self, seed: int) -> None:
        self.draw = random.Random(seed)
        self.both = Pair()

    def run(self, count: int) -> tuple[int, int, int]:
        """Run sequences; return the numbers of changes, decisions and positive decisions."""
        try:
            for _ in range(count):
                self.sequence()
            return self.both.steps, self.both.decisions, self.both.allowed
        finally:
            self.both.close()

    def sequence(self) -> None:
        """One sequence: an empty store, a client with a grant, changes, and requests after each."""
        empty(self.both.store)
        self.both.begin()
        begin_with_a_grant(self.both, self.draw.choice(PAIRS))
        self.requests()
        for _ in range(CHANGES):
            self.change()
            self.requests()

    def change(self) -> None:
        both, pick, name = self.both, self.draw.choice, self.name
        self.draw.choice(
            (
                lambda: both.add_client(name(), pick(ROLE_SETS), pick((None, *FINGERPRINTS))),
                lambda: both.add_client(pick(GOOD_NAMES), FRONT_END, pick(FINGERPRINTS)),
                lambda: both.add_role(name(), pick(list(Role))),
                lambda: both.remove_role(name(), pick(list(Role))),
                lambda: both.add_reader(name(), name()),
                lambda: both.remove_reader(name(), name()),
                lambda: both.add_credential(name(), pick(FINGERPRINTS)),
                lambda: both.remove_client(name()),
                lambda: both.rename_client(name(), name()),
                lambda: both.rename_client("web", pick(GOOD_NAMES)),
                lambda: both.trust_ca(
                    pick(CAS), self.draw.sample(GOOD_NAMES, pick((0, 1, 2))), pick((0, 60, 3_600))
                ),
                lambda: both.distrust_ca(pick(CAS)),
                lambda: both.revoke(pick(REVOCATIONS)),
                lambda: both.add_key(name(), pick(PAIRS), pick(CEILINGS)),
                lambda: both.add_key(name(), pick(PAIRS), pick(CEILINGS), name()),
                lambda: both.remove_key(name()),
                lambda: both.rename_key(name(), name()),
                lambda: both.add_grant(name(), name(), self.purposes()),
                lambda: both.add_grant_of_all(name(), name()),
                lambda: both.limit_grant(name(), name(), self.purposes(), pick(ENDS_S)),
                lambda: both.limit_grant_of_all(name(), name(), pick(ENDS_S)),
                lambda: both.remove_grant(name(), name(), self.purposes()),
            )
        )()

    def requests(self) -> None:
        both, pick = self.both, self.draw.choice
        for user in (*GOOD_NAMES, pick(NAMES)):
            both.connect_with_key(user, pick(FINGERPRINTS + CAS))
            other = pick((user, user, pick(NAMES)))
            principals: Any = pick(([other], [other], [user, other], []))
            both.connect_with_certificate(user, pick(CAS), principals, pick(CERTIFICATES))
        for identity in both.identities:
            both.ask(identity, pick(PAIRS), pick(CODES))
            both.ask(identity, pick(PAIRS), pick(CODES[:2]))
            both.ask_for_control(identity, self.name())

    def name(self) -> str:
        return self.draw.choice(GOOD_NAMES * 3 + NAMES[3:])

    def purposes(self) -> frozenset[Purpose]:
        return frozenset(Purpose(code) for code in self.draw.sample(CODES[:7], self.draw.choice((0, 1, 2))))


def empty(store: Store) -> None:
    """Remove everything; the ids of removed rows are not reused."""
    contents = store.load()
    for client in contents.clients:
        store.change(lambda tx: tx.clients.remove(client.name))
    for key in contents.keys:
        store.change(lambda tx: tx.keys.remove(key.name))
    if contents.revocations:  # only the database can remove one
        with store._engine.begin() as connection:
            connection.exec_driver_sql("DELETE FROM revocations")


def run_sequences(chunk: tuple[int, int]) -> tuple[int, int, int]:
    seed, count = chunk
    try:
        return Sequences(seed).run(count)
    except AssertionError as error:
        raise AssertionError(f"sequences of seed {seed}: {error}") from error


@pytest.mark.timeout(0)
def test_many_short_sequences_decide_like_the_model() -> None:
    seed, size = random.getrandbits(32), max(50, min(500, SEQUENCES // 8))
    chunks = [(seed + at, min(size, SEQUENCES - at)) for at in range(0, SEQUENCES, size)]
    with ProcessPoolExecutor(os.cpu_count()) as processes:
        counts = [sum(column) for column in zip(*processes.map(run_sequences, chunks), strict=True)]
    print(
        f"seed {seed}: {SEQUENCES} sequences, {counts[0]} changes, {counts[1]} decisions, {counts[2]} of them grants"
    )
    assert counts[0] >= SEQUENCES * CHANGES
    assert counts[2] > SEQUENCES
