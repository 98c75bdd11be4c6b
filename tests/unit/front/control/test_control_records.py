"""The audit records of control requests equal those that earlier releases wrote, kept in `control_records.json`."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from msgspec import inspect as shapes

from hsmd.daemon.audit.log import AuditLog
from hsmd.daemon.front.access.credentials import KeyCredential
from hsmd.daemon.front.access.identity import Identity
from hsmd.daemon.front.control.dispatcher import Dispatcher
from hsmd.daemon.store.contents import Contents
from hsmd.daemon.store.records import ClientRecord, CredentialRecord
from hsmd.errors import Refused
from hsmd.protocol import messages
from hsmd.protocol.roles import Role
from tests.support.snapshots import snapshot_of

RECORDS: dict[str, Any] = json.loads(Path(__file__).with_name("control_records.json").read_text())
NOON = datetime(2026, 3, 4, 12, tzinfo=UTC)
ANN, STRANGER = (
    Identity("ann", frozenset({Role.OPERATOR, Role.FRONT_END, Role.OWNER}), KeyCredential("FA")),
    Identity("stranger", frozenset({Role.OPERATOR}), KeyCredential("FS")),
)


def filled(shape: shapes.StructType, leave_out: str = "") -> Any:
    """The struct with a value for every member, made from the member's name, but for the field `leave_out`."""
    fields = [field for field in shape.fields if field.name != leave_out]
    return shape.cls(**{field.name: value(field.type, field.encode_name) for field in fields})


def value(shape: shapes.Type, name: str) -> Any:
    match shape:
        case shapes.Metadata(type=inner):
            return value(inner, name)
        case shapes.StrType():
            return f"{name} \u00e9\n\udc80"
        case shapes.BytesType():
            return name.encode()
        case shapes.BoolType():
            return True
        case shapes.DateTimeType():
            return NOON
        case shapes.UnionType(types=types):
            return value(next(each for each in types if not isinstance(each, shapes.NoneType)), name)
        case shapes.IntType():
            return len(name)
        case shapes.ListType(item_type=item):
            return [value(item, f"{name}-1"), value(item, f"{name}-2")]
        case shapes.StructType():
            return filled(shape)
    raise TypeError(f"no value for {shape}")


REQUESTS = {
    **{op: filled(shapes.type_info(request)) for op, request in messages.OPERATIONS.items()},  # type: ignore[arg-type]
    "grant.add, unlimited": messages.GrantAdd(
        "client \u00e9\n\udc80",
        "key \u00e9\n\udc80",
        ["purposes-1 \u00e9\n\udc80", "purposes-2 \u00e9\n\udc80"],
    ),
    "cert.import, unforced": filled(shapes.type_info(messages.CertificateImport), leave_out="force"),  # type: ignore[arg-type]
    "cert.self-signed, unforced": filled(
        shapes.type_info(messages.CertificateSelfSigned),  # type: ignore[arg-type]
        leave_out="force",
    ),
    "key.adopt, bare": messages.KeyAdopt("bare"),
    "client.add, one role": filled(shapes.type_info(messages.ClientAdd), leave_out="role_set"),  # type: ignore[arg-type]
    "client.enroll, one role": filled(shapes.type_info(messages.ClientEnroll), leave_out="role_set"),  # type: ignore[arg-type]
    "client.rotate-key, bare": messages.ClientRotateKey(),
    "cert.self-signed, long": messages.CertificateSelfSigned("k" * 3_000, ["d" * 200] * 100),
}
"""Every request with every member filled, some with what may be left out, one that is too long for a record."""


@pytest.mark.parametrize("label", RECORDS)
async def test_the_records_of_a_request_are_unchanged(label: str, tmp_path: Path) -> None:
    assert await recorded(REQUESTS[label], tmp_path) == RECORDS[label]


async def recorded(request: messages.Request, directory: Path) -> list[Any]:
    """(event, client, fields in their order) of a refused request, and of one that is carried out."""
    audit = AuditLog.open(directory)
    client = ClientRecord("ann", ANN.roles, (CredentialRecord("FA", "line"),), NOON)
    snapshot = snapshot_of(
        Contents(version=1, keys=(), certificates=(), clients=(client,), user_cas=(), grants=())
    )

    async def handle(identity: Identity, request: Any, deadline: float) -> messages.Done:
        return messages.Done()

    dispatcher = Dispatcher(
        snapshot=lambda: snapshot,
        audit=audit,
        now=lambda: NOON,
        handlers=dict.fromkeys(messages.REQUESTS, handle),
    )
    with pytest.raises(Refused):
        await dispatcher.dispatch(STRANGER, request, 9.0)
    await dispatcher.dispatch(ANN, request, 9.0)
    await audit.close()
    records = [json.loads(line) for line in (directory / "audit.jsonl").read_text().splitlines()]
    return [[each["event"], each["client"], list(map(list, each["fields"].items()))] for each in records]
