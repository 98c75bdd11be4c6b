"""The owner of a key on a real daemon: it reads the key's whole history with proofs, and no other client inherits that."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import asyncssh
import pytest

from hsmd.daemon.audit.archiving import archive
from hsmd.errors import BadRequest, Conflict, NotFound, Refused
from hsmd.protocol import messages
from hsmd.protocol.frames import Kind
from hsmd.transparency import checkpoint
from hsmd.transparency.keyring import KeyRing
from hsmd.transparency.lines import leaf_hash
from hsmd.transparency.merkle import verify_inclusion
from hsmd.transparency.note import Verifier
from hsmd.transparency.verification import verify_log
from tests.support.daemon import AUDITOR, MAIL, ROOT, WEB, Daemon, public_line, run_aside, running_daemon
from tests.support.polling import wait_until
from tests.support.ssh_peer import ssh, wire

pytestmark = pytest.mark.timeout(180)
OWNER, RIVAL = "payments", "rival"


def add_owner(daemon: Daemon, name: str) -> None:
    """Add a client with the role owner and a new key."""
    key = asyncssh.generate_private_key("ssh-ed25519")
    (daemon.directory / name).unlink(missing_ok=True)
    daemon._write_key(name, key)
    daemon.ask(messages.ClientAdd(name, "owner", public_line(key)))


def use(daemon: Daemon, client: str, digest: str, expected: Kind = Kind.RESULT) -> None:
    async def sign() -> None:
        async with await ssh(daemon, client) as connection:
            kind, _ = await (await wire(connection)).use(1, bytes.fromhex(digest))
        assert kind == expected

    run_aside(sign)


def read_about(daemon: Daemon, client: str, limit: int = 3) -> list[str]:
    """All that a client may read, page by page."""
    lines: list[str] = []
    first = 0
    while True:
        page = daemon.ask(messages.AuditAbout(first=first, limit=limit), client)
        assert not page.away and not page.undecided
        lines += page.lines
        if page.next >= page.size:
            return lines
        first = page.next


def whole_log(daemon: Daemon) -> list[str]:
    """Every record from archive, segments and live file."""
    audit = daemon.directory / "audit"
    files = {
        path.name: path
        for where in (audit / "segments", daemon.directory / "archive")
        for path in where.glob("0*")
    }
    return [
        line
        for path in (*(files[name] for name in sorted(files)), daemon.audit_path)
        for line in path.read_text().splitlines()
    ]


def history_of(lines: list[str], digest: str) -> list[str]:
    """The records about a key, found without the daemon."""
    records = [json.loads(line) for line in lines]
    about = {
        record["index"]
        for record in records
        if digest in (record.get("key"), record.get("fields", {}).get("target_digest"))
    }
    about |= {record["index"] for record in records if record.get("attempt") in about}
    return [lines[index] for index in sorted(about)]


def archived_away(daemon: Daemon) -> int:
    """Seal the log, and move what can be moved to an archive; return the first record that is left."""
    daemon.ask(messages.AuditSeal())
    audit, to = daemon.directory / "audit", daemon.directory / "archive"
    wait_until(lambda: bool(archive(audit, to, remove=True).removed), "a checkpoint covers the segment", 20)
    return int(daemon.audit()[0]["index"])


def assert_proven(daemon: Daemon, client: str, lines: list[str]) -> None:
    """Check each record against a signed checkpoint, as `hsmd audit prove` does."""
    newest = daemon.ask(messages.AuditCheckpoint(), client)
    verifier = Verifier.from_vkey(newest.verifier_key)
    for line in lines:
        index = json.loads(line)["index"]
        proven: messages.InclusionProof = daemon.ask(messages.AuditProve(index=index), client)
        assert (proven.index, proven.line) == (index, line)
        at = checkpoint.parse(proven.note, verifier)
        verify_inclusion(index, at.size, leaf_hash(line.encode()), proven.proof, at.root)


def verify_twice(daemon: Daemon, directory: Path) -> None:
    """Run the verifier that shares no code with hsmd on the log, with its archive put back, and that of hsmd."""
    shutil.copytree(daemon.directory / "audit", directory)
    for path in (daemon.directory / "archive").iterdir():
        shutil.copy(path, directory / "segments")
    key = directory / "key"
    key.write_text(daemon.ask(messages.AuditCheckpoint()).verifier_key + "\n")
    done = subprocess.run(
        [sys.executable, ROOT / "scripts" / "verify-audit", directory, "--public-key", key],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    lines = (f"{line}\n".encode() for line in whole_log(daemon))
    assert verify_log(lines, KeyRing.parse(key.read_bytes())).first_bad is None


def about_other_than(lines: list[str], client: str) -> list[dict[str, Any]]:
    """Records that a client was shown although they are neither its own nor name it."""
    records = [json.loads(line) for line in lines]
    return [
        record
        for record in records
        if record.get("client") != client and client not in record.get("fields", {}).values()
    ]


def test_the_owner_reads_the_whole_history_of_a_destroyed_key_with_proofs(tmp_path: Path) -> None:
    with running_daemon(tmp_path / "daemon", checkpoint_s=1) as daemon:
        for name in (OWNER, RIVAL):
            add_owner(daemon, name)
        made = daemon.ask(messages.KeyGenerate("pay", "p-256", ["tls-server"], owner=OWNER))
        digest = made.digest
        assert (made.owner, made.owner_removed) == (OWNER, False)
        daemon.ask(messages.GrantAdd(WEB, "pay", ["tls-server"]))
        use(daemon, WEB, digest)
        use(daemon, MAIL, digest, Kind.ERROR)
        assert archived_away(daemon) > 0
        daemon.ask(messages.KeyRename("pay", "pay-2025"))
        use(daemon, WEB, digest)
        assert archived_away(daemon) > 0
        daemon.ask(messages.ClientRename(OWNER, "payments-team"))
        shutil.copy(daemon.directory / OWNER, daemon.directory / "payments-team")
        assert [(key.name, key.owner) for key in daemon.ask(messages.KeyList(), "payments-team").keys] == [
            ("pay-2025", "payments-team")
        ]
        daemon.ask(messages.KeyDestroy("pay-2025", "pay-2025"))
        other = daemon.ask(messages.KeyGenerate("pay", "p-256", ["tls-server"], owner=RIVAL)).digest
        daemon.ask(messages.GrantAdd(WEB, "pay", ["tls-server"]))
        use(daemon, WEB, other)
        size = len(whole_log(daemon))
        wait_until(lambda: daemon.status().audit_covered >= size, "a checkpoint of all records", 20)

        expected = history_of(whole_log(daemon), digest)
        assert len(expected) >= 12, "made, granted, two uses, a refusal, renamed, destroyed"
        found = read_about(daemon, "payments-team")
        assert set(expected) <= set(found)
        assert found == sorted(found, key=lambda line: json.loads(line)["index"])
        assert len(found) == len(set(found))
        assert not set(found) & set(history_of(whole_log(daemon), other)), "another key with the same name"
        assert_proven(daemon, "payments-team", expected)
        verify_twice(daemon, tmp_path / "together")

        (past,) = daemon.ask(messages.KeyHistory(), "payments-team").keys
        assert (past.digest, [each.name for each in past.names]) == (digest, ["pay", "pay-2025"])
        assert past.made_at < past.destroyed_at
        assert daemon.ask(messages.KeyHistory(), AUDITOR).keys == [past]
        assert daemon.ask(messages.KeyHistory(), RIVAL).keys == []
        with pytest.raises(Refused):
            daemon.ask(messages.KeyHistory(), WEB)

        assert not set(read_about(daemon, RIVAL)) & set(expected)
        with pytest.raises(NotFound, match="about you or your keys"):
            daemon.ask(messages.AuditProve(index=json.loads(expected[0])["index"]), RIVAL)

        daemon.ask(messages.ClientRemove("payments-team"))
        for name in (OWNER, "payments-team"):
            add_owner(daemon, name)
            shown = read_about(daemon, name)
            assert not set(shown) & set(expected)
            assert not about_other_than(shown, name)
            assert {json.loads(line)["fields"]["op"] for line in shown} <= {"client.add"}
            assert daemon.ask(messages.KeyHistory(), name).keys == []
        (past,) = daemon.ask(messages.KeyHistory(), AUDITOR).keys
        assert (past.owner, past.owner_removed) == (OWNER, True)


def test_an_owner_must_have_the_role_and_keeps_it(shared_daemon: Daemon) -> None:
    for owner, text in ((WEB, "does not have the role owner"), ("nothing", "there is no client")):
        with pytest.raises(Conflict, match=text):
            shared_daemon.ask(messages.KeyGenerate("for-none", "p-256", ["tls-server"], owner=owner))
        with pytest.raises(Conflict, match=text):
            shared_daemon.ask(messages.KeyAdopt("for-none", cka_label="web", owner=owner))
    with pytest.raises(NotFound):
        shared_daemon.ask(messages.KeyShow("for-none"))
    with pytest.raises(BadRequest):
        shared_daemon.ask(messages.KeyGenerate("for-none", "p-256", ["tls-server"], owner="o" * 300))


def test_the_owner_reads_that_its_key_was_granted_with_an_enrolment(tmp_path: Path) -> None:
    with running_daemon(tmp_path / "daemon", checkpoint_s=1) as daemon:
        digests = {}
        for owner, key in ((OWNER, "pay"), (RIVAL, "rival-key")):
            add_owner(daemon, owner)
            digests[owner] = daemon.ask(
                messages.KeyGenerate(key, "p-256", ["tls-server"], owner=owner)
            ).digest
        before = {owner: read_about(daemon, owner) for owner in digests}
        pay, other, absent = (
            messages.WantedGrant(key, ["tls-server"]) for key in ("pay", "rival-key", "no-such-key")
        )
        daemon.ask(messages.ClientEnroll("web-9", grants=[pay, other]))
        with pytest.raises(NotFound, match="no-such-key"):
            daemon.ask(messages.ClientEnroll("web-10", grants=[pay, absent]))
        size = len(whole_log(daemon))
        wait_until(lambda: daemon.status().audit_covered >= size, "a checkpoint of all records", 20)

        shown = [line for line in read_about(daemon, OWNER) if line not in before[OWNER]]
        assert [summary(line) for line in shown] == [
            ("control.begun", "grant.add", "web-9", digests[OWNER]),
            ("control.done", "grant.add", "web-9", digests[OWNER]),
            ("control.begun", "grant.add", "web-10", digests[OWNER]),
            ("control.failed", "grant.add", "web-10", digests[OWNER]),
        ]
        assert not [line for line in shown if "rival-key" in line or "no-such-key" in line]
        assert_proven(daemon, OWNER, shown)
        shown_to_rival = [line for line in read_about(daemon, RIVAL) if line not in before[RIVAL]]
        assert [summary(line) for line in shown_to_rival] == [
            ("control.begun", "grant.add", "web-9", digests[RIVAL]),
            ("control.done", "grant.add", "web-9", digests[RIVAL]),
        ]
        assert archived_away(daemon) > 0
        verify_twice(daemon, tmp_path / "together")


def summary(line: str) -> tuple[str, ...]:
    """The event, operation, client and key of a control record."""
    record = json.loads(line)
    fields = record["fields"]
    return record["event"], fields["op"], fields["target_client"], fields["target_digest"]
