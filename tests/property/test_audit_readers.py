"""Readers of the audit log get exactly the records they may see, for any page size."""

from __future__ import annotations

import asyncio
import tempfile
from typing import Any

import msgspec
from hypothesis import given, settings, strategies as st

from hsmd.daemon.audit import AuditLog, readers
from hsmd.daemon.audit.readers import Reader, about
from hsmd.transparency.records import parse_record

CLIENTS = ("ann", "web-1", "web-2")
KEYS = {"www": b"\1" * 32, "shop": b"\2" * 32}
OPERATIONS = ("client.add", "key.destroy", "grant.add", "cert.import", "status")

clients, keys = st.sampled_from(CLIENTS), st.sampled_from(sorted(KEYS))
steps = st.one_of(
    st.tuples(st.just("attempt"), clients, keys),
    st.tuples(st.just("outcome"), st.integers(0, 3), st.just("")),
    st.tuples(st.just("refusal"), clients, keys),
    st.tuples(st.just("control"), st.tuples(st.sampled_from(OPERATIONS), clients), st.tuples(clients, keys)),
    st.tuples(st.just("own"), st.just(""), st.just("")),
)
readers_of = st.builds(
    Reader,
    client=clients,
    everything=st.booleans(),
    owned=st.sets(keys).map(lambda names: {KEYS[name].hex(): name for name in names}),
)


def write(log: AuditLog, made: list[Any]) -> None:
    still_open: list[int] = []
    for kind, first, second in made:
        if kind == "attempt":
            still_open.append(log.attempt(first, "cred", second, KEYS[second], "tls13-server", 0x0403, b""))
        elif kind == "outcome" and still_open:
            log.outcome(still_open.pop(first % len(still_open)), "performed", b"x")
        elif kind == "refusal":
            log.refusal(first, "cred", KEYS[second], "tls13-server", 0x0403, b"", "no-grant")
        elif kind == "control":
            (operation, by), (client, key) = first, second
            log.event("control.done", by, op=operation, **targets(operation, client, key))
        elif kind == "own":
            log.event("log.segment", "", first=1)
        log.commit()


def targets(operation: str, client: str, key: str) -> dict[str, str]:
    return {
        "client.add": {"target_name": client},
        "key.destroy": {"target_name": key},
        "grant.add": {"target_client": client, "target_key": key},
        "cert.import": {"target_key": key},
        "status": {},
    }[operation]


def for_reader(lines: list[str], reader: Reader) -> list[str]:
    """An independent implementation of the rule in docs/audit.md."""
    records = [msgspec.to_builtins(parse_record(line.encode())) for line in lines]
    names = set(reader.owned.values())

    def concerns(record: dict[str, Any]) -> bool:
        if reader.everything:
            return True
        if record["event"] == "outcome":
            return concerns(records[record["attempt"]])
        if record.get("client") == reader.client or record.get("key") in reader.owned:
            return True
        fields = record.get("fields", {})
        kind = fields.get("op", "").split(".")[0]
        if kind == "client":
            return fields["target_name"] == reader.client
        if kind == "key":
            return fields["target_name"] in names
        return fields.get("target_client") == reader.client or fields.get("target_key") in names

    return [line for line, record in zip(lines, records, strict=True) if concerns(record)]


@settings(max_examples=60, deadline=None)
@given(st.lists(steps, max_size=40), readers_of, st.integers(1, 7), st.integers(1, 9), st.integers(1, 3))
def test_readers_get_exactly_the_records_they_may_see(
    made: list[Any], reader: Reader, limit: int, scanned: int, looked_up: int
) -> None:
    async def check() -> None:
        with tempfile.TemporaryDirectory() as directory:
            log = AuditLog.open(directory)
            write(log, made)
            everything = log.read(0, 500)
            found: list[str] = []
            first = 0
            while first < log.size:
                with log.view() as view:
                    lines, following = about(view, log.size, first, limit, reader)
                assert len(lines) <= limit
                assert first < following <= min(log.size, first + scanned)
                found += lines
                first = following
            assert found == for_reader(everything, reader)
            await log.close()

    before = readers.MAX_SCANNED, readers.MAX_LOOKED_UP
    readers.MAX_SCANNED, readers.MAX_LOOKED_UP = scanned, looked_up
    try:
        asyncio.run(check())
    finally:
        readers.MAX_SCANNED, readers.MAX_LOOKED_UP = before
