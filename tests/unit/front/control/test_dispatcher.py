"""The dispatcher: order of records and effects, bounded records of refusals, changes that complete after their callers left."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from hsmd.daemon.audit.log import AuditLog
from hsmd.daemon.audit.refusals import BURST, PER_SECOND
from hsmd.daemon.front.access.credentials import KeyCredential
from hsmd.daemon.front.access.identity import Identity
from hsmd.daemon.front.access.snapshot import Snapshot
from hsmd.daemon.front.control.dispatcher import MAX_CHANGES, Dispatcher
from hsmd.daemon.store.contents import Contents
from hsmd.daemon.store.records import ClientRecord, CredentialRecord, KeyRecord
from hsmd.errors import AuditFailure, BadRequest, Conflict, NotFound, Overloaded, Refused
from hsmd.protocol import messages
from hsmd.protocol.roles import Role
from tests.support.snapshots import snapshot_of
from tests.support.store import key_record

NOON = datetime(2026, 3, 4, 12, tzinfo=UTC)
ANN, WEB, OWEN, NINA = (
    Identity("ann", frozenset({Role.OPERATOR}), KeyCredential("FA")),
    Identity("web", frozenset({Role.FRONT_END}), KeyCredential("FW")),
    Identity("owen", frozenset({Role.OWNER}), KeyCredential("FO")),
    Identity("nina", frozenset({Role.NODE}), KeyCredential("FN")),
)


def snapshot_with(*keys: KeyRecord) -> Snapshot:
    clients = tuple(
        ClientRecord(each.client, each.roles, (CredentialRecord(each.credential.text, "line"),), NOON)
        for each in (ANN, WEB, OWEN, NINA)
    )
    return snapshot_of(Contents(version=1, keys=keys, clients=clients))


class Daemon:
    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.audit = AuditLog.open(directory)
        self.now = 0.0
        snapshot = snapshot_with()
        self.proceed = asyncio.Event()
        self.proceed.set()
        self.error: Exception | None = None
        self.seen: list[list[str]] = []
        self.snapshot = snapshot
        self.effect: Callable[[], None] = lambda: None
        self.dispatcher = Dispatcher(
            snapshot=lambda: self.snapshot,
            audit=self.audit,
            now=lambda: NOON,
            clock=lambda: self.now,
            handlers=dict.fromkeys(messages.REQUESTS, self._handle),
        )

    async def _handle(self, identity: Identity, request: Any, deadline: float) -> messages.Done:
        self.seen.append(self.events())
        await self.proceed.wait()
        if self.error:
            raise self.error
        self.effect()
        return messages.Done()

    def records(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in (self.directory / "audit.jsonl").read_text().splitlines()]

    def events(self) -> list[str]:
        return [record["event"] for record in self.records()]


@pytest.fixture
async def daemon(tmp_path: Path) -> AsyncIterator[Daemon]:
    made = Daemon(tmp_path / "audit")
    yield made
    await made.audit.close()


def test_a_request_without_a_handler_is_found_at_the_start(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="WhoAmI"):
        Dispatcher(snapshot=None, audit=None, handlers={})  # type: ignore[arg-type]


async def test_a_change_is_recorded_before_and_after_and_a_query_is_not(daemon: Daemon) -> None:
    await daemon.dispatcher.dispatch(ANN, messages.ClientRemove("web"), 9.0)
    assert daemon.seen == [["control.begun"]]
    assert daemon.events() == ["control.begun", "control.done"]
    await daemon.dispatcher.dispatch(ANN, messages.Status(), 9.0)
    assert len(daemon.events()) == 2


@pytest.mark.parametrize("request_type", messages.REQUESTS, ids=lambda each: each.op())
async def test_every_request_that_changes_something_is_recorded(
    daemon: Daemon, request_type: type[messages.Request]
) -> None:
    members = request_type.__struct_fields__
    caller = next(each for each in (ANN, WEB, OWEN, NINA) if each.roles & request_type.roles)
    await daemon.dispatcher.dispatch(caller, request_type(**dict.fromkeys(members, "")), 9.0)
    assert daemon.events() == (["control.begun", "control.done"] if request_type.changes else [])


async def test_the_record_has_the_members_of_a_request_and_hashes_of_documents(daemon: Daemon) -> None:
    request = messages.KeyAdopt(
        "site", ["tls-server"], cka_label="old\n\x1b[2Jname", certificate="PEM " * 10, accept_unsafe=True
    )
    await daemon.dispatcher.dispatch(ANN, request, 9.0)
    fields = daemon.records()[0]["fields"]
    assert fields["target_cka_label"] == "old\n\x1b[2Jname"
    assert (fields["target_accept_unsafe"], fields["target_purposes"]) == ("True", "tls-server")
    assert len(fields["target_certificate_sha256"]) == 64
    assert "target_certificate" not in fields
    text = (daemon.directory / "audit.jsonl").read_bytes()
    assert b"\x1b" not in text


def digests(daemon: Daemon) -> list[object]:
    return [record["fields"].get("target_digest") for record in daemon.records()]


async def test_records_of_a_change_tell_which_key_it_was_about(daemon: Daemon) -> None:
    """A renamed or destroyed key is still the one that the request was about; a new one is known at the end."""
    www = key_record("www")
    digest = www.digest.hex()
    daemon.effect = lambda: setattr(daemon, "snapshot", snapshot_with(www))
    await daemon.dispatcher.dispatch(ANN, messages.KeyGenerate("www", "p-256", ["tls-server"]), 9.0)
    assert digests(daemon) == [None, digest]
    daemon.effect = lambda: setattr(daemon, "snapshot", snapshot_with())
    await daemon.dispatcher.dispatch(ANN, messages.KeyDestroy("www", "www"), 9.0)
    assert digests(daemon)[2:] == [digest, digest]


async def test_records_of_failures_and_refusals_tell_which_key_it_was_about(daemon: Daemon) -> None:
    www = key_record("www")
    daemon.snapshot, daemon.error = snapshot_with(www), Conflict("no")
    with pytest.raises(Conflict):
        await daemon.dispatcher.dispatch(ANN, messages.GrantAdd("web", "www", ["tls-server"]), 9.0)
    with pytest.raises(Refused):
        await daemon.dispatcher.dispatch(WEB, messages.KeyDestroy("www", "www"), 9.0)
    with pytest.raises(Conflict):
        await daemon.dispatcher.dispatch(ANN, messages.KeyRename("other", "www"), 9.0)
    assert digests(daemon) == [*[www.digest.hex()] * 3, None, None]


ENROLMENT = messages.ClientEnroll(
    "web-9",
    grants=[messages.WantedGrant("www", ["tls-server"]), messages.WantedGrant("shop", ["tls-client"])],
)


def grants_recorded(daemon: Daemon) -> list[tuple[object, ...]]:
    members = ("begun", "part_of", "target_client", "target_key", "target_digest", "target_purposes", "error")
    return [
        (record["event"], record["client"], *(record["fields"].get(each) for each in members))
        for record in daemon.records()
        if record["fields"]["op"] == "grant.add"
    ]


async def test_a_grant_that_comes_with_an_enrolment_is_recorded_as_one_of_its_key(daemon: Daemon) -> None:
    """The owner of the key reads records about the key; those of the enrolment are about the new client."""
    www, shop = key_record("www"), key_record("shop")
    daemon.snapshot = snapshot_with(www, shop)
    await daemon.dispatcher.dispatch(ANN, ENROLMENT, 9.0)
    assert daemon.seen == [["control.begun"] * 3], "all are on disk before the change"
    assert daemon.events() == ["control.begun"] * 3 + ["control.done"] * 3
    of_www = "web-9", "www", www.digest.hex(), "tls-server", None
    of_shop = "web-9", "shop", shop.digest.hex(), "tls-client", None
    assert grants_recorded(daemon) == [
        ("control.begun", "ann", None, 0, *of_www),
        ("control.begun", "ann", None, 0, *of_shop),
        ("control.done", "ann", 1, 0, *of_www),
        ("control.done", "ann", 2, 0, *of_shop),
    ]


@pytest.mark.parametrize(
    ("error", "event"),
    [(NotFound("no key shop"), "control.failed"), (ZeroDivisionError("bug"), "control.unknown")],
)
async def test_grants_of_an_enrolment_that_did_not_succeed_end_like_it(
    daemon: Daemon, error: Exception, event: str
) -> None:
    """Without the reason, which can name other keys than the one whose owner reads it."""
    www = key_record("www")
    daemon.snapshot, daemon.error = snapshot_with(www), error
    with pytest.raises(type(error)):
        await daemon.dispatcher.dispatch(ANN, ENROLMENT, 9.0)
    of_www = "web-9", "www", www.digest.hex(), "tls-server", None
    of_shop = "web-9", "shop", None, "tls-client", None
    assert grants_recorded(daemon)[2:] == [(event, "ann", 1, 0, *of_www), (event, "ann", 2, 0, *of_shop)]
    assert daemon.events() == ["control.begun"] * 3 + [event] * 3


async def test_a_refused_enrolment_is_one_record(daemon: Daemon) -> None:
    """Records of refusals are limited in number, and an enrolment can have 100 grants."""
    daemon.snapshot = snapshot_with(key_record("www"))
    with pytest.raises(Refused):
        await daemon.dispatcher.dispatch(WEB, ENROLMENT, 9.0)
    assert daemon.events() == ["control.refused"]


def test_no_member_of_a_request_collides_with_the_digest() -> None:
    assert not [each.op() for each in messages.REQUESTS if "digest" in each.__struct_fields__]


async def test_every_request_fits_into_a_record(daemon: Daemon) -> None:
    """With every member filled, the records at the end of a change still have space for their own fields."""
    for request in messages.REQUESTS:
        values = {
            name: ["x"] * 3 if "list" in str(kind) else "x" for name, kind in request.__annotations__.items()
        }
        made = request(**values)
        begun = daemon.dispatcher._note("control.begun", ANN, made, "f" * 64)
        daemon.dispatcher._note("control.failed", ANN, made, "f" * 64, begun=begun, error="x" * 500)
    daemon.audit.commit()


async def test_failures_and_internal_faults_are_recorded_differently(daemon: Daemon) -> None:
    daemon.error = Conflict("there already")
    with pytest.raises(Conflict):
        await daemon.dispatcher.dispatch(ANN, messages.ClientAdd("x"), 9.0)
    daemon.error = ZeroDivisionError("bug")
    with pytest.raises(ZeroDivisionError):
        await daemon.dispatcher.dispatch(ANN, messages.ClientAdd("x"), 9.0)
    assert daemon.events() == ["control.begun", "control.failed", "control.begun", "control.unknown"]
    assert "bug" not in (daemon.directory / "audit.jsonl").read_text()


async def test_a_change_whose_caller_left_is_completed_and_recorded(daemon: Daemon) -> None:
    daemon.proceed.clear()
    task = asyncio.create_task(daemon.dispatcher.dispatch(ANN, messages.ClientRemove("web"), 9.0))
    while not daemon.seen:
        await asyncio.sleep(0.002)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not daemon.dispatcher.idle
    daemon.proceed.set()
    async with asyncio.timeout(5):
        while not daemon.dispatcher.idle:
            await asyncio.sleep(0.002)
    assert daemon.events() == ["control.begun", "control.done"]


async def test_repeatedly_cancelled_requests_leave_a_bounded_number_of_changes(daemon: Daemon) -> None:
    """A front end requests its next key, cancels, and requests it again."""
    daemon.proceed.clear()
    refused = 0
    for _ in range(200):
        asked = asyncio.create_task(daemon.dispatcher.dispatch(WEB, messages.ClientRotateKey("x"), 9.0))
        ends = asyncio.get_running_loop().time() + 5
        begun = len(daemon.seen)
        while not asked.done() and len(daemon.seen) == begun:
            assert asyncio.get_running_loop().time() < ends
            await asyncio.sleep(0.001)
        asked.cancel()
        try:
            await asked
        except Overloaded:
            refused += 1
        except asyncio.CancelledError:
            pass
    assert (len(daemon.seen), refused) == (MAX_CHANGES, 200 - MAX_CHANGES)
    removal = asyncio.create_task(
        daemon.dispatcher.dispatch(ANN, messages.ClientRemove("web"), 9.0)
    )  # other clients are not limited
    daemon.proceed.set()
    await removal
    await asyncio.sleep(0.1)
    assert daemon.dispatcher.idle
    await daemon.dispatcher.dispatch(WEB, messages.ClientRotateKey("x"), 9.0)


async def test_without_a_record_nothing_changes(daemon: Daemon) -> None:
    path = daemon.directory / "audit.jsonl"
    path.rename(path.with_suffix(".away"))
    with pytest.raises(AuditFailure):
        await daemon.dispatcher.dispatch(ANN, messages.ClientRemove("web"), 9.0)
    assert daemon.seen == []
    path.with_suffix(".away").rename(path)


async def test_a_change_whose_end_cannot_be_recorded_is_reported(
    daemon: Daemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    commits = 0
    durable = daemon.audit.commit_durable

    async def fail_second() -> None:
        nonlocal commits
        commits += 1
        if commits == 2:
            raise AuditFailure(detail="no space")
        await durable()

    monkeypatch.setattr(daemon.audit, "commit_durable", fail_second)
    with pytest.raises(AuditFailure, match="is over"):
        await daemon.dispatcher.dispatch(ANN, messages.ClientRemove("web"), 9.0)
    assert daemon.seen, "it was carried out"


async def test_refusals_above_a_rate_are_counted_in_one_record(daemon: Daemon) -> None:
    for _ in range(1_000):
        with pytest.raises(Refused) as caught:
            await daemon.dispatcher.dispatch(WEB, messages.Status(), 9.0)
        assert (caught.value.text, caught.value.detail) == ("refused", "wrong-role")
    assert daemon.events() == ["control.refused"] * 100
    daemon.now += 1.0
    for _ in range(50):
        with pytest.raises(Refused):
            await daemon.dispatcher.dispatch(WEB, messages.Status(), 9.0)
    assert daemon.events()[100:] == ["log.refusals"] + ["control.refused"] * 10
    assert daemon.records()[100]["fields"] == {"count": 900}
    assert daemon.seen == []


async def test_changes_of_a_client_that_is_no_operator_are_limited_to_the_rate_of_refusals(
    daemon: Daemon,
) -> None:
    """Each is recorded twice even if it fails: any client could fill the disk with requests for its next key."""
    daemon.error = BadRequest("public_key: not a key")
    for number in range(1_000):
        with pytest.raises(Overloaded if number >= BURST else BadRequest):
            await daemon.dispatcher.dispatch(WEB, messages.ClientRotateKey("x"), 9.0)
    assert daemon.events() == ["control.begun", "control.failed"] * BURST
    daemon.now += 1.0
    errors = []
    for _ in range(50):
        with pytest.raises((BadRequest, Overloaded)) as caught:
            await daemon.dispatcher.dispatch(WEB, messages.ClientRotateKey("x"), 9.0)
        errors.append(caught.type)
    assert errors.count(BadRequest) == PER_SECOND
    for _ in range(BURST + 1):
        with pytest.raises(BadRequest):
            await daemon.dispatcher.dispatch(ANN, messages.ClientRotateKey("x"), 9.0)
