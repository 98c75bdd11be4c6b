"""The vault in the store against an independent model (tests/support/vault_model.py), on both databases.

Deposits, limits, suspensions, ends, acquisitions, announcements, replaced and lost management keys, clocks that go forth and
back, and restores, in any order. After each step all versions, counts and events are compared.
Hypothesis drives some runs, and finds short counterexamples; a seeded generator drives longer ones.
`HSMD_MODEL_EXAMPLES`, `HSMD_MODEL_STEPS` and `HSMD_MODEL_SEQUENCES` raise the counts.
"""

from __future__ import annotations

import copy
import itertools
import os
import random
import secrets
import shutil
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings, strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from hsmd.daemon.store import NotGiven, Readers, Store
from hsmd.envelopes.vault.records import RecordStanding
from hsmd.errors import HsmdError
from hsmd.protocol.roles import Role
from tests.support.postgresql import Cluster
from tests.support.vault_model import DAY, NEVER, Refused, Told, Vault, Version
from tests.support.vault_store import ORIGIN, Owner

EXAMPLES = int(os.environ.get("HSMD_MODEL_EXAMPLES", "10"))
SEQUENCES = int(os.environ.get("HSMD_MODEL_SEQUENCES", "5"))
SEQUENCE_STEPS = 100
STEPS = int(os.environ.get("HSMD_MODEL_STEPS", "40"))
START = int(datetime(2026, 3, 4, 5, 6, 7, tzinfo=UTC).timestamp())

records = st.sampled_from(["a", "b"])
some = st.integers(0, 11)
"""Which version of those that are there."""
rarely = st.sampled_from([False, False, False, True])
"""Whether to do what leaves little to do after it."""
keys = st.sampled_from(["k1", "k2", "k3", "k4", "k5", "k6"])
BEGINS: list[int] = [0, 0, 0, 3_600]
ENDS: list[int | None] = [None, None, 7_200, 3 * DAY, 70 * DAY, -60]
MAXIMA: list[int] = [0, 1, 2, 3]
PASSING: list[int] = [1, 3_600, DAY, 8 * DAY, 45 * DAY, -1, -3_600, -40 * DAY]
limits = st.fixed_dictionaries(
    {
        "not_before": st.sampled_from(BEGINS),
        "not_after": st.sampled_from(ENDS),
        "max_uses": st.sampled_from(MAXIMA),
        "deny": st.booleans(),
    }
)
HAPPENS = {
    *("given", "owner", "expired", "lost-management-key", "restored", "suspended", "not-yet", "limit"),
    *("expiring", "exhausted", "over-use", "resumed", "revoked", "compromised", "destroyed"),
    *("Conflict", "NotFound"),
}
"""What a run must have come across: answers to acquisitions, events, errors."""
NewStore = Callable[[], Store]


def moment(seconds: int) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)


class VaultMachine(RuleBasedStateMachine):
    """An owner in a store and in the model. `new_store` makes an empty migrated store."""

    new_store: NewStore
    seen: Counter[str]
    """What happened, to see that it does."""

    @initialize()
    def begin(self) -> None:
        self.model = Vault(START, keys={1: "active"})
        self.owner = Owner(type(self).new_store()).enrol(moment(START))
        self.owner.begin(moment(START))
        self.numbers: dict[tuple[str, int], int] = {}
        """The highest number that the owner has signed, also what a restored store does not know."""
        self.backup: tuple[bytes, Vault, Owner] | None = None
        for record, key in (("a", "k7"), ("b", "k8")):
            self.put(record, key, {"not_before": 0, "not_after": None, "max_uses": 0, "deny": False})

    # --- what both do ---

    def both(self, in_model: Callable[[Vault], Any], in_store: Callable[[], Any]) -> None:
        """Do the same in both; what the model refuses must be refused, and change nothing."""
        before = copy.deepcopy(self.model)
        try:
            in_model(self.model)
        except Refused as refused:
            self.model = before
            with pytest.raises(HsmdError) as raised:
                in_store()
            assert type(raised.value).__name__ == str(refused)
            self.seen[str(refused)] += 1
        else:
            in_store()

    @property
    def now(self) -> datetime:
        return moment(self.model.now)

    def pick(self, which: int) -> tuple[str, int]:
        """Record and version of one of those that are there."""
        there = self.model.everything()
        record, version, _ = there[which % len(there)]
        return record, version

    def next_number(self, record: str, version: int) -> int:
        """The number of the next statement that the owner signs; after a restore above all that it has seen."""
        it = self.model.find(record, version)
        seen = self.numbers.get((record, version), 1)
        return max(it.number, seen) + 1 if it.held else it.number + 1

    def signed(self, record: str, version: int, number: int) -> None:
        self.numbers[record, version] = max(number, self.numbers.get((record, version), 1))

    def terms(self, given: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
        """Limits for model and store."""
        begin = self.model.now + given["not_before"] if given["not_before"] else 0
        end = NEVER if given["not_after"] is None else self.model.now + given["not_after"]
        if begin >= end:
            begin = 0
        for_model = {
            "not_before": begin,
            "not_after": end,
            "max_uses": given["max_uses"],
            "deny": given["deny"],
        }
        for_store = {
            "not_before": moment(begin) if begin else None,
            "not_after": None if end == NEVER else moment(end),
            "max_uses": given["max_uses"],
            "mode": "deny" if given["deny"] else "notify",
        }
        return for_model, for_store

    # --- rules ---

    @rule(record=records, key=keys, given=limits)
    def put(self, record: str, key: str, given: dict[str, Any]) -> None:
        for_model, for_store = self.terms(given)
        version = len(self.model.records.get(record, [])) + 1
        self.both(
            lambda model: model.put(record, key, **for_model),
            lambda: self.owner.put(record, version, key=key, now=self.now, **for_store),
        )

    @rule(which=some, given=limits)
    def limit(self, which: int, given: dict[str, Any]) -> None:
        record, version = self.pick(which)
        if self.model.find(record, version).standing == "destroyed":
            return
        for_model, for_store = self.terms(given)
        if given["not_after"] is None:  # only uses change
            kept = self.model.find(record, version)
            for_model |= {"not_before": kept.not_before, "not_after": kept.not_after}
            del for_store["not_before"], for_store["not_after"]
        number = self.next_number(record, version)
        self.both(
            lambda model: model.limit(record, version, number, **for_model),
            lambda: self.owner.limit(
                record,
                version,
                now=self.now,
                stated_at=self.stated(record, version),
                number=number,
                **for_store,
            ),
        )
        self.signed(record, version, self.model.find(record, version).number)

    def stated(self, record: str, version: int) -> datetime:
        """The owner's clock, which does not go back when that of the daemon does."""
        return max(self.now, datetime.fromisoformat(self.owner.heads[record, version].stated_at))

    @rule(which=some, compromised=st.booleans(), really=rarely)
    def revoke(self, which: int, compromised: bool, really: bool) -> None:
        record, version = self.pick(which)
        if not really or self.model.find(record, version).standing == "destroyed":
            return
        number = self.next_number(record, version)
        head = self.owner.heads[record, version]
        standing = RecordStanding.COMPROMISED if compromised else RecordStanding.REVOKED
        since = (head.compromised_at or moment(START)) if compromised else ""
        self.both(
            lambda model: model.revoke(record, version, number, compromised=compromised),
            lambda: self.owner.revoke(
                record,
                version,
                now=self.now,
                stated_at=self.stated(record, version),
                number=number,
                standing=standing,
                compromised_at=since,
            ),
        )
        self.signed(record, version, self.model.find(record, version).number)

    @rule(which=some, really=rarely)
    def destroy(self, which: int, really: bool) -> None:
        record, version = self.pick(which)
        if not really:
            return
        number = self.next_number(record, version)
        changes = {"standing": RecordStanding.DESTROYED, "envelope": "", "number": number}

        def in_store() -> None:
            statement = self.owner.next(
                record, version, now=self.now, stated_at=self.stated(record, version), **changes
            )
            stated = self.owner.sign(statement)
            self.owner.change(lambda tx: tx.vault_records.destroy("ann", stated, self.now))
            self.owner.heads[record, version] = statement

        self.both(lambda model: model.destroy(record, version, number), in_store)
        self.signed(record, version, self.model.find(record, version).number)

    @rule(which=some)
    def suspend(self, which: int) -> None:
        record, version = self.pick(which)
        self.both(
            lambda model: model.suspend(record, version),
            lambda: self.owner.change(
                lambda tx: tx.vault_records.suspend("ann", record, version, "", self.now)
            ),
        )

    @rule(which=some, confirm=st.booleans())
    def resume(self, which: int, confirm: bool) -> None:
        """The owner resumes a version, and an operator confirms the management key if that is held after a restore."""
        if confirm and self.model.active() in self.model.held:
            self.confirm_again()
        record, version = self.pick(which)
        self.both(
            lambda model: model.resume(record, version),
            lambda: self.owner.change(lambda tx: tx.vault_records.resume("ann", record, version, self.now)),
        )

    @rule(which=some, times=st.integers(1, 3), newest=st.booleans())
    def get(self, which: int, times: int, newest: bool) -> None:
        record, version = self.pick(which)
        version = len(self.model.records[record]) if newest else version
        for _ in range(times):
            self.both(
                lambda model: self.expect(model.get(record, version)),
                lambda: self.check_given(self.owner.get(record, 0 if newest else version, now=self.now)),
            )

    @rule(which=some)
    def use_up(self, which: int) -> None:
        record, version = self.pick(which)
        maximum = self.model.find(record, version).max_uses
        self.get(which, maximum + 2, newest=False)

    @rule(record=st.sampled_from(["a", "c"]))
    def get_what_is_not_there(self, record: str) -> None:
        self.both(lambda model: model.get(record, 99), lambda: self.owner.get(record, 99, now=self.now))

    def expect(self, why: str) -> None:
        self.why = why

    def check_given(self, found: Any) -> None:
        assert (found.acquisition.refusal if isinstance(found, NotGiven) else "") == self.why
        self.seen[self.why or "given"] += 1
        if not isinstance(found, NotGiven):
            record, version = found.version.record, found.version.version
            assert sha256(found.envelope).hexdigest() == self.owner.heads[record, version].envelope
            assert found.head.text == self.owner.heads[record, version].encode()

    @rule(seconds=st.sampled_from(PASSING))
    def let_time_pass(self, seconds: int) -> None:
        self.model.now += seconds

    @rule()
    def announce(self) -> None:
        self.both(
            lambda model: model.announce(),
            lambda: self.owner.change(lambda tx: tx.vault_announcements.announce(self.now)),
        )

    @rule()
    def replace(self) -> None:
        self.both(lambda model: model.replace(), lambda: self.owner.replace(self.now))

    @rule(which=some)
    def rewrap(self, which: int) -> None:
        record, version = self.pick(which)
        if self.model.find(record, version).standing == "destroyed":
            return
        number = self.next_number(record, version)

        def in_store() -> None:
            envelope = self.owner.envelope(record, version)
            changes = {
                "management": self.owner.management.digest.hex(),
                "envelope": sha256(envelope).hexdigest(),
            }
            statement = self.owner.next(
                record,
                version,
                now=self.now,
                stated_at=self.stated(record, version),
                number=number,
                **changes,
            )
            stated = self.owner.sign(statement)
            self.owner.change(lambda tx: tx.vault_records.rewrap("ann", stated, envelope, self.now))
            self.owner.heads[record, version] = statement

        self.both(lambda model: model.rewrap(record, version, number), in_store)
        self.signed(record, version, number)

    @rule()
    def finish(self) -> None:
        self.both(
            lambda model: model.finish(),
            lambda: self.owner.change(lambda tx: tx.vault_keys.finish("ann", self.now)),
        )

    @rule(really=rarely)
    def lose_the_management_key(self, really: bool) -> None:
        if not really:
            return
        self.both(
            lambda model: model.restart(), lambda: self.owner.begin(self.now, number=len(self.model.keys))
        )

    @rule()
    def back_up(self) -> None:
        self.backup = (
            self.owner.store.export(),
            copy.deepcopy(self.model),
            copy.copy(self.owner),
        )
        self.backup[2].heads = dict(self.owner.heads)

    @precondition(lambda self: self.backup is not None)
    @rule()
    def restore(self) -> None:
        assert self.backup is not None
        (document, model, owner), self.backup = self.backup, None
        self.owner.store.close()
        model.now = self.model.now
        model.restored()
        self.model, self.owner = model, owner
        self.owner.store = type(self).new_store()
        self.owner.store.restore(document)

    @rule()
    def confirm_again(self) -> None:
        """What an operator does after a restore."""
        digest = self.owner.management.digest
        self.both(
            lambda model: model.confirm_again(),
            lambda: self.owner.change(lambda tx: tx.vault_keys.confirm("ann", digest, "again", self.now)),
        )

    @rule()
    def forget_what_is_recorded(self) -> None:
        kept = self.owner.change(lambda tx: tx.vault_acquisitions.all_of(ORIGIN))
        self.owner.change(lambda tx: tx.vault_acquisitions.remove(each.id for each in kept))
        assert self.owner.change(lambda tx: tx.vault_acquisitions.all_of(ORIGIN)) == []

    # --- comparison ---

    @invariant()
    def everything_agrees(self) -> None:
        if not hasattr(self, "model"):
            return
        with self.owner.store.read() as tx:
            keys = tx.vault_keys.page("ann").items
            states = {each.number: (each.state.value, each.deposits) for each in keys}
            assert {each.number for each in keys if each.held} == self.model.held
            assert states == {
                number: (state, self.sealed(number)) for number, state in self.model.keys.items()
            }
            assert tx.vault_owners.usage("ann").versions == sum(states[number][1] for number in states)
            for record, version, it in self.model.everything():
                found = tx.vault_versions.get("ann", record, version)
                assert self.view(found) == _view(it, self.model.keys[it.sealed_to])
                envelope = tx.vault_versions.envelope(found.row)
                assert bool(envelope) == (it.standing != "destroyed")
                standing = found.judge(self.now)
                assert standing.acquirable == (not self.model.refusal(it))
                assert standing.usable == self.model.usable(record, version)
            assert tx.vault_announcements.next_due() == self.next_due()
            assert (
                self.told(tx.events.page(Readers(frozenset({Role.OPERATOR})), None).events)
                == self.model.events
            )

    def sealed(self, number: int) -> int:
        return sum(
            it.sealed_to == number and it.standing != "destroyed" for _, _, it in self.model.everything()
        )

    def next_due(self) -> datetime | None:
        coming = [it.coming[0][0] for _, _, it in self.model.everything() if it.coming]
        return moment(0) + timedelta(seconds=min(coming)) if coming else None

    def view(self, found: Any) -> dict[str, Any]:
        return {
            "standing": found.standing.value,
            "compromised": found.compromised_at is not None,
            "suspended": found.suspended_at is not None,
            "held": found.held,
            "ended": None if found.ended_at is None else int(found.ended_at.timestamp()),
            "not_after": NEVER if found.not_after is None else int(found.not_after.timestamp()),
            "counts": (found.requests, found.released),
            "number": found.number,
            "management": found.management_state.value,
        }

    def told(self, events: Any) -> list[Told]:
        found = []
        for each in events:
            kind = each.kind.removeprefix("vault.")
            if kind in ("registered", "confirmed"):
                continue
            if kind == "replaced":
                more = "finished" if each.payload["finished"] else "begun"
                found.append((kind, each.subject, each.payload["number"], more))
                continue
            more = each.payload.get(
                "threshold", str(each.payload["given"]) if "given" in each.payload else ""
            )
            found.append((kind, each.subject.removeprefix("ann/"), each.payload["version"], more))
        return found

    def teardown(self) -> None:
        if hasattr(self, "owner"):
            self.seen.update(kind for kind, *_ in self.model.events)
            self.owner.store.close()


def _view(it: Version, management: str) -> dict[str, Any]:
    return {
        "standing": it.standing,
        "compromised": it.compromised,
        "suspended": it.suspended,
        "held": it.held,
        "ended": it.ended,
        "not_after": it.not_after,
        "counts": (it.requests, it.released),
        "number": it.number,
        "management": management,
    }


@pytest.fixture(params=["sqlite", "postgresql"])
def new_store(request: pytest.FixtureRequest, tmp_path: Path) -> NewStore:
    """Makes empty stores as copies of a migrated one, which is faster than migrating each."""
    count = itertools.count()
    if request.param == "sqlite":
        template = tmp_path / "template.db"
        _migrate(f"sqlite:///{template}")

        def copied() -> Store:
            path = tmp_path / f"store{next(count)}.db"
            shutil.copy(template, path)
            return Store(f"sqlite:///{path}")

        return copied
    cluster: Cluster = request.getfixturevalue("cluster")
    template_name = f"vault_{secrets.token_hex(8)}"
    cluster.run(f"CREATE DATABASE {template_name}")
    _migrate(cluster.url(template_name))

    def made() -> Store:
        name = f"{template_name}_{next(count)}"
        cluster.run(f"CREATE DATABASE {name} TEMPLATE {template_name}")
        return Store(cluster.url(name))

    return made


def _migrate(url: str) -> None:
    store = Store(url)
    store.migrate()
    store.close()


@pytest.mark.timeout(900)  # a counterexample takes minutes to shrink
def test_the_vault_does_what_the_model_does(new_store: NewStore) -> None:
    seen: Counter[str] = Counter()
    machine_class = type("Machine", (VaultMachine,), {"new_store": staticmethod(new_store), "seen": seen})
    machine = machine_class.TestCase()  # type: ignore[attr-defined]
    machine.settings = settings(
        max_examples=EXAMPLES,
        stateful_step_count=STEPS,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    machine.runTest()


# --- sequences from a seeded generator, which go on longer and come across more ---

ACTIONS: dict[str, tuple[int, Callable[[VaultMachine, random.Random], None]]] = {
    "put": (5, lambda it, draw: it.put(draw.choice("ab"), f"k{draw.randrange(12)}", _limits(draw))),
    "limit": (6, lambda it, draw: it.limit(draw.randrange(12), _limits(draw))),
    "get": (8, lambda it, draw: it.get(draw.randrange(12), draw.randrange(1, 4), draw.random() < 0.3)),
    "get nothing": (1, lambda it, draw: it.get_what_is_not_there(draw.choice("ac"))),
    "use up": (4, lambda it, draw: it.use_up(draw.randrange(12))),
    "pass": (5, lambda it, draw: it.let_time_pass(draw.choice(PASSING))),
    "announce": (3, lambda it, draw: it.announce()),
    "suspend": (1, lambda it, draw: it.suspend(draw.randrange(12))),
    "resume": (2, lambda it, draw: it.resume(draw.randrange(12), confirm=True)),
    "revoke": (1, lambda it, draw: it.revoke(draw.randrange(12), draw.random() < 0.5, draw.random() < 0.5)),
    "destroy": (1, lambda it, draw: it.destroy(draw.randrange(12), draw.random() < 0.5)),
    "replace": (1, lambda it, draw: it.replace()),
    "rewrap": (3, lambda it, draw: it.rewrap(draw.randrange(12))),
    "finish": (1, lambda it, draw: it.finish()),
    "lose": (1, lambda it, draw: it.lose_the_management_key(draw.random() < 0.2)),
    "back up": (1, lambda it, draw: it.back_up()),
    "restore": (1, lambda it, draw: it.restore() if it.backup and draw.random() < 0.3 else None),
    "recorded": (1, lambda it, draw: it.forget_what_is_recorded()),
}


def _limits(draw: random.Random) -> dict[str, Any]:
    return {
        "not_before": draw.choice(BEGINS),
        "not_after": draw.choice(ENDS),
        "max_uses": draw.choice(MAXIMA),
        "deny": draw.random() < 0.5,
    }


@pytest.mark.timeout(900)
def test_long_sequences(new_store: NewStore) -> None:
    seen: Counter[str] = Counter()
    machine_class = type("Machine", (VaultMachine,), {"new_store": staticmethod(new_store), "seen": seen})
    weights = [weight for weight, _ in ACTIONS.values()]
    for seed in range(SEQUENCES):
        draw = random.Random(seed)
        machine = machine_class()
        machine.begin()
        for name in draw.choices(list(ACTIONS), weights, k=SEQUENCE_STEPS):
            ACTIONS[name][1](machine, draw)
            machine.everything_agrees()
        machine.teardown()
    print(f"{SEQUENCES * SEQUENCE_STEPS} steps: {dict(seen)}")
    assert seen.keys() >= HAPPENS
