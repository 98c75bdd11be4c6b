"""Backup and restore: a daemon loses everything but its token, and a restored daemon replaces it."""

from __future__ import annotations

import copy
import io
import json
import random
import re
import shutil
import subprocess
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from hsmd import cli
from hsmd.daemon.backup import archive_writer, creation
from hsmd.daemon.backup.archive import FORMAT, Archive
from hsmd.daemon.store import Store, portable
from hsmd.daemon.store.migrate import newest_revision
from hsmd.errors import BadRequest, Conflict, StoreFailure
from hsmd.protocol import messages
from hsmd.protocol.frames import Kind
from hsmd.system.log_files import log_lines
from hsmd.transparency.verification import verify_log
from tests.support.daemon import MAIL, WEB, Daemon, run_aside
from tests.support.postgresql import Cluster
from tests.support.ssh_peer import ssh, wire
from tests.support.vault_store import Owner


def hsmd(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> dict[str, object]:
    """The JSON document of a command that must succeed."""
    capsys.readouterr()
    code = cli.run([*map(str, arguments), "--json"])
    printed = capsys.readouterr()
    assert code == 0, printed.out + printed.err
    found: dict[str, object] = json.loads(printed.out)
    return found


def refused(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> str:
    capsys.readouterr()
    assert cli.run([*map(str, arguments)]) != 0
    return capsys.readouterr().err


def moved_to(built: Daemon, directory: Path) -> Daemon:
    """A daemon with the same token and clients, and no other files of the lost daemon."""
    directory.mkdir()
    for name in built.keys:
        shutil.copy2(built.directory / name, directory / name)
    other = copy.copy(built)
    other.directory, other.config = directory, directory / "hsmd.toml"
    other.log_path, other.audit_path = directory / "log", directory / "audit" / "audit.jsonl"
    other.process, other.notice = None, {}
    return other


def only_grantee_can_use(built: Daemon, key: bytes) -> bool:
    """Whether the front end with the grant gets a signature and another front end does not."""

    async def use(client: str) -> int:
        async with await ssh(built, client) as connection:
            return (await (await wire(connection)).use(1, key))[0]

    return run_aside(lambda: use(WEB)) == Kind.RESULT and run_aside(lambda: use("mail-1")) == Kind.ERROR


CHANGED_BY_A_RESTORE = ("ledger", "ledger_epochs", "leases", "grant_uses")
"""Tables with the epoch, the terms and the counts that tell what was given out or used after the backup was made."""


def exported(url: str) -> dict[str, list[dict[str, Any]]]:
    """The rows by table, without those that a restore changes."""
    store = Store(url)
    try:
        tables = portable.decode(store.export()).tables
    finally:
        store.close()
    assert len(tables["ledger"]) == 1
    return {name: rows for name, rows in tables.items() if name not in CHANGED_BY_A_RESTORE}


@pytest.fixture
def built(tmp_path: Path) -> Iterator[Daemon]:
    made = Daemon(tmp_path / "first")
    text = re.sub(
        r'url = ".*"', 'url = "sqlite:///store.sqlite"', made.config.read_text()
    )  # relative to the configuration file
    made.config.write_text(text)
    yield made
    made.end()


def test_a_restored_daemon_serves_with_the_same_host_key(
    built: Daemon, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Back up a running daemon, delete everything but its token, and restore it in another directory."""
    archive = tmp_path / "backup.tar"
    built.start()
    key = built.add_key("www")
    assert only_grantee_can_use(built, key)
    built.ask(messages.GrantAdd(MAIL, "www", ["tls13-server"], max_uses=5))
    host_key = built.notice["host_key"]
    made = hsmd(capsys, "backup", archive, "--config", built.config, "--host-key", "--audit")
    names = {entry["name"] for entry in made["files"]}  # type: ignore[attr-defined]
    assert {"store.json", "hsmd.toml", "host_key", "audit/audit.jsonl"} <= names
    assert archive.stat().st_mode & 0o777 == 0o600
    assert built.pin_file.read_bytes().strip() not in archive.read_bytes()
    assert built.stop() == 0
    other = moved_to(built, tmp_path / "second")
    for path in built.directory.iterdir():
        if path.name != "softhsm":
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    restored = hsmd(capsys, "restore", archive, "--config", other.config)
    assert "discontinuity" in json.dumps(restored["next"])
    assert "State the limits of limited grants anew (1)" in json.dumps(restored["next"])
    try:
        other.start()
        assert other.notice["host_key"] == host_key
        assert only_grantee_can_use(other, key)
        assert other.audit("attempt")[0]["key"] == key.hex()
        assert other.stop() == 0
    finally:
        other.end()
    assert cli.run(["audit", "verify", "--log", str(other.audit_path)]) == 0


def test_a_daemon_is_restored_to_postgresql_and_back(
    built: Daemon, tmp_path: Path, capsys: pytest.CaptureFixture[str], cluster: Cluster
) -> None:
    """Restore from SQLite to PostgreSQL, run the daemon there, and restore it with its additions to SQLite."""
    cluster.run("CREATE DATABASE drill")
    built.start()
    key = built.add_key("www")
    hsmd(capsys, "backup", tmp_path / "one.tar", "--config", built.config, "--host-key")
    assert built.stop() == 0
    before = exported(f"sqlite:///{built.directory / 'store.sqlite'}")
    second = moved_to(built, tmp_path / "second")
    # An existing configuration is not changed.
    second.config.write_text(
        re.sub(r'url = ".*"', f'url = "{cluster.url("drill")}"', built.config.read_text())
    )
    hsmd(capsys, "restore", tmp_path / "one.tar", "--config", second.config)
    assert exported(cluster.url("drill")) == before
    try:
        second.start()
        assert only_grantee_can_use(second, key)
        added = second.add_key("shop", grant_to=("mail-1",))  # ids continue after the restored ones
        assert second.stop() == 0
    finally:
        second.end()
    hsmd(capsys, "backup", tmp_path / "two.tar", "--config", second.config)
    third = tmp_path / "third" / "hsmd.toml"
    third.parent.mkdir()
    third.write_text(built.config.read_text())
    hsmd(capsys, "restore", tmp_path / "two.tar", "--config", third)
    store = Store(f"sqlite:///{third.parent / 'store.sqlite'}")
    assert {record.name: record.digest for record in store.load().keys} == {"www": key, "shop": added}
    store.close()
    assert exported(f"sqlite:///{third.parent / 'store.sqlite'}") == exported(cluster.url("drill"))


def test_a_restore_says_how_many_management_keys_have_to_be_confirmed_again(
    built: Daemon, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = Store(f"sqlite:///{built.directory / 'store.sqlite'}")
    for name in ("ann", "bob"):
        owner = Owner(store, name).enrol()
        owner.begin()
        owner.replace()
    store.close()
    hsmd(capsys, "backup", tmp_path / "backup.tar", "--config", built.config)
    restored = hsmd(capsys, "restore", tmp_path / "backup.tar", "--config", tmp_path / "new" / "hsmd.toml")
    steps = json.dumps(restored["next"])
    assert "fingerprints of their management keys (2)" in steps
    assert "hsmd vault confirm OWNER FINGERPRINT" in steps


@pytest.mark.parametrize("what", ["garbage", "nothing", "empty", "own"])
def test_a_log_that_cannot_be_used_stops_a_restore_which_leaves_nothing(
    built: Daemon, tmp_path: Path, capsys: pytest.CaptureFixture[str], what: str
) -> None:
    """Given with --log, or in the directory in hsmd.toml; uses would come back if it was passed over."""
    archive, new = tmp_path / "backup.tar", tmp_path / "new"
    hsmd(capsys, "backup", archive, "--config", built.config, "--host-key")
    log = new / "audit" if what == "own" else tmp_path / "log"
    if what != "nothing":
        log.mkdir(parents=True)
        (log / "audit.jsonl").write_text("" if what == "empty" else "garbage\n")
    options = [] if what == "own" else ["--log", log]
    text = refused(capsys, "restore", archive, "--config", new / "hsmd.toml", *options)
    assert str(log) in text and " - " in text
    assert what == "own" or not new.exists()
    assert [path.name for path in new.rglob("*") if path.is_file()] == ["audit.jsonl"] * (what == "own")


def test_the_log_in_a_backup_is_read_and_is_not_complete(
    built: Daemon, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    built.start()
    built.ask(messages.AuditSeal())
    hsmd(capsys, "backup", tmp_path / "backup.tar", "--config", built.config, "--audit")
    assert built.stop() == 0
    again = ["restore", tmp_path / "backup.tar", "--config", tmp_path / "new" / "hsmd.toml"]
    restored = hsmd(capsys, *again)
    (log,) = restored["logs"]  # type: ignore[misc]
    assert (log["origin"], log["from_backup"], log["complete"]) == ("hsmd/test", True, False)
    assert log["path"] == str(tmp_path / "new" / "audit")
    assert (restored["versions_raised"], restored["uncounted"]) == (0, ["hsmd/test"])
    shutil.rmtree(tmp_path / "new")
    kept = built.audit_path.parent
    restored = hsmd(capsys, *again, "--log", kept, "--log", kept / ".." / kept.name)
    assert [(each["path"], each["complete"]) for each in restored["logs"]] == [  # type: ignore[attr-defined]
        (str(tmp_path / "new" / "audit"), False),
        (str(kept / ".." / kept.name), True),
    ]
    assert restored["uncounted"] == []
    shutil.rmtree(tmp_path / "new")
    capsys.readouterr()
    assert cli.run([*map(str, again), "--log", str(kept)]) == 0
    shown = capsys.readouterr().out
    assert "ends with the backup" in shown and f"{kept} of hsmd/test: " in shown


def test_uses_of_a_limited_grant_after_the_backup_are_counted_from_the_log(
    built: Daemon, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    built.start()
    key = built.add_key("www", grant_to=())
    built.ask(messages.GrantAdd(WEB, "www", ["tls13-server"], max_uses=5))
    hsmd(capsys, "backup", tmp_path / "backup.tar", "--config", built.config)
    assert only_grantee_can_use(built, key) and only_grantee_can_use(built, key)
    assert built.stop() == 0
    for path in built.directory.glob("store.sqlite*"):
        path.unlink()
    (built.directory / "host_key").rename(tmp_path / "host_key")
    restored = hsmd(capsys, "restore", tmp_path / "backup.tar", "--config", built.config)
    assert (restored["grants_raised"], restored["logs"][0]["grant_uses"]) == (1, 2)  # type: ignore[index]
    assert "hsmd grant list shows what is counted" in json.dumps(restored["next"])
    store = Store(f"sqlite:///{built.directory / 'store.sqlite'}")
    (grant,) = store.load().limited_grants
    assert (grant.used, grant.held) == (2, True)
    store.close()


def test_nothing_is_overwritten_and_a_failure_leaves_nothing(
    built: Daemon, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    archive = tmp_path / "backup.tar"
    hsmd(capsys, "backup", archive, "--config", built.config, "--host-key")
    assert "not overwritten" in refused(capsys, "backup", archive, "--config", built.config)
    before = {path: path.read_bytes() for path in built.directory.rglob("*") if path.is_file()}
    assert "not overwritten" in refused(capsys, "restore", archive, "--config", built.config)
    assert {path: path.read_bytes() for path in built.directory.rglob("*") if path.is_file()} == before
    target = tmp_path / "new"
    target.mkdir()
    (target / "store.sqlite").write_text("another user's")
    assert "not overwritten" in refused(capsys, "restore", archive, "--config", target / "hsmd.toml")
    assert [path.name for path in target.iterdir()] == ["store.sqlite"]
    assert (target / "store.sqlite").read_text() == "another user's"


def test_a_backup_has_secrets_only_on_request(
    built: Daemon, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    private = (built.directory / "host_key").read_bytes()
    hsmd(capsys, "backup", tmp_path / "without.tar", "--config", built.config)
    hsmd(capsys, "backup", tmp_path / "with.tar", "--config", built.config, "--host-key")
    assert private not in (tmp_path / "without.tar").read_bytes()
    assert private in (tmp_path / "with.tar").read_bytes()
    for archive in ("without.tar", "with.tar"):
        assert built.pin_file.read_bytes().strip() not in (tmp_path / archive).read_bytes()
    restored = hsmd(capsys, "restore", tmp_path / "without.tar", "--config", tmp_path / "new" / "hsmd.toml")
    assert "the archive does not contain it" in json.dumps(restored["next"])


@pytest.mark.parametrize("moment", ["before reading", "between hash and copy"])
def test_a_log_that_is_sealed_during_the_backup_is_complete(
    built: Daemon,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    moment: str,
) -> None:
    """The live file is renamed to a segment, and a new live file of the same length takes its name."""
    built.start()
    built.ask(messages.AuditSeal())

    def sealing(inner: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **more: Any) -> Any:
            monkeypatch.undo()
            built.ask(messages.AuditSeal())
            for number in range(20):
                built.ask(messages.ClientAdd(f"client-{number}"))
            return inner(*arguments, **more)

        return call

    if moment == "before reading":
        monkeypatch.setattr(creation, "write", sealing(creation.write))
    else:
        monkeypatch.setattr(archive_writer, "_add", sealing(archive_writer._add))
    hsmd(capsys, "backup", tmp_path / "backup.tar", "--config", built.config, "--audit")
    Archive(tmp_path / "backup.tar").extract_audit(tmp_path / "log")
    verdict = verify_log(log_lines(tmp_path / "log"), None)
    assert verdict.intact
    assert verdict.size > 4


def content(archive: Archive) -> dict[str, bytes]:
    return {name: archive.read(name) for name in archive.names()}


def test_damage_is_found(built: Daemon, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """An archive with a flipped bit is refused, or has the same content (in tar padding); a truncated one is refused."""
    path, damaged = tmp_path / "backup.tar", tmp_path / "damaged.tar"
    hsmd(capsys, "backup", path, "--config", built.config, "--host-key")
    good, whole = content(Archive(path)), path.read_bytes()
    draw = random.Random(41)
    found = 0
    for _ in range(400):
        at = draw.randrange(len(whole))
        damaged.write_bytes(whole[:at] + bytes([whole[at] ^ 1 << draw.randrange(8)]) + whole[at + 1 :])
        try:
            assert content(Archive(damaged)) == good, at
        except BadRequest:
            found += 1
    assert found > 100
    used = whole.rstrip(b"\0")
    for at in [draw.randrange(len(used)) for _ in range(50)]:
        damaged.write_bytes(whole[:at])
        with pytest.raises(BadRequest):
            Archive(damaged)


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("../../etc/passwd", tarfile.REGTYPE),
        ("/etc/passwd", tarfile.REGTYPE),
        ("audit/../x", tarfile.REGTYPE),
        ("hsmd.toml", tarfile.SYMTYPE),
        ("store.json", tarfile.LNKTYPE),
        ("audit/segments/1.jsonl", tarfile.REGTYPE),
    ],
)
def test_members_that_no_backup_has_are_refused(
    built: Daemon, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, kind: bytes
) -> None:
    path = tmp_path / "backup.tar"
    hsmd(capsys, "backup", path, "--config", built.config)
    with tarfile.open(path, "a") as tar:
        member = tarfile.TarInfo(name)
        member.type, member.linkname = kind, "/etc/passwd"
        tar.addfile(member)
    with pytest.raises(BadRequest):
        Archive(path)


@pytest.mark.timeout(20)
def test_a_sparse_member_of_a_small_archive_is_refused(tmp_path: Path) -> None:
    """A member with a hole of a tebibyte."""
    (tmp_path / "audit").mkdir()
    (tmp_path / "manifest.json").write_bytes(
        b'{"format":1,"release":"1","daemon":"d","created_at":"2026-01-01T00:00:00Z","revision":"1","files":[]}'
    )
    with (tmp_path / "audit" / "audit.jsonl").open("wb") as file:
        file.truncate(1 << 40)
    members = ["manifest.json", "audit/audit.jsonl"]
    subprocess.run(
        ["tar", "--sparse", "--format=gnu", "-cf", "small.tar", *members], cwd=tmp_path, check=True
    )
    assert (tmp_path / "small.tar").stat().st_size < 100_000
    with pytest.raises(BadRequest):
        Archive(tmp_path / "small.tar")


def rewritten(path: Path, **changes: object) -> None:
    """Replace members of the archive's manifest."""
    archive = Archive(path)
    manifest = msgspec.structs.replace(archive.manifest, **changes)
    held = content(archive)
    with tarfile.open(path, "w") as tar:
        for name, data in {"manifest.json": msgspec.json.encode(manifest), **held}.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))


def test_newer_archives_are_refused(
    built: Daemon, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "backup.tar"
    hsmd(capsys, "backup", path, "--config", built.config)
    assert Archive(path).manifest.revision == newest_revision()
    rewritten(path, format=FORMAT + 1)
    with pytest.raises(BadRequest, match="newer"):
        Archive(path)


def test_a_store_of_a_newer_release_is_refused(empty_url: str) -> None:
    rows = portable.Document("9999", {})
    with pytest.raises(StoreFailure, match="newer release"):
        restored(empty_url, msgspec.json.encode(rows))


def rows_of(daemon: Daemon) -> bytes:
    """The export of a daemon's store."""
    store = Store(f"sqlite:///{daemon.directory / 'store.sqlite'}")
    try:
        return store.export()
    finally:
        store.close()


def restored(url: str, document: bytes) -> None:
    """Fill the store at `url`, and close it whatever happens."""
    store = Store(url)
    try:
        store.restore(document)
    finally:
        store.close()


def test_a_store_in_use_is_not_restored_to(built: Daemon, empty_url: str) -> None:
    rows = rows_of(built)
    store = Store(empty_url)
    store.restore(rows)
    held = store.export()
    with pytest.raises(Conflict, match="in use"):
        store.restore(rows)
    assert store.export() == held
    store.close()


def test_an_older_store_is_migrated(built: Daemon, empty_url: str) -> None:
    """Rows of the first release are restored to the current schema."""
    now = portable.decode(rows_of(built))
    first = {
        "keys",
        "key_purposes",
        "certificates",
        "clients",
        "credentials",
        "cas",
        "ca_clients",
        "grants",
        "state",
    }
    old = portable.Document("0001", {name: rows for name, rows in now.tables.items() if name in first})
    store = Store(empty_url)
    store.restore(msgspec.json.encode(old))
    assert portable.decode(store.export()).revision == newest_revision()
    assert {client.name for client in store.load().clients} == set(built.keys)
    store.close()
