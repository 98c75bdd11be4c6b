"""Verification of complete logs: the verdict on a good log, the rules for records, and the command of the second verifier."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from hsmd.errors import ProofInvalid, ProtocolError
from hsmd.transparency import verification
from hsmd.transparency.keyring import KeyRing
from hsmd.transparency.lines import attempt_stem, attempt_tail, event_tail, leaf_hash, outcome_tail
from hsmd.transparency.note import SignatureType
from hsmd.transparency.verification import verify_log
from tests.support.audit_logs import ROOT, LogMaker, Signer, checkpoint_tail, second_verifier

SECOND = second_verifier()


def new_log() -> LogMaker:
    log = LogMaker()
    for _ in range(3):
        log.use(5)
        log.record_checkpoint()
    log.use(2)
    return log


def keys(log: LogMaker) -> KeyRing:
    return KeyRing([log.signer.verifier])


def both(log: LogMaker) -> tuple[int | None, int | None]:
    """The bad records that both verifiers report, which must be the same."""
    ours = verify_log(log.lines, keys(log))
    theirs = SECOND.Verification([SECOND.read_verifier_key(log.signer.verifier.vkey)])
    try:
        theirs.run(log.lines)
        found = (None, None)
    except SECOND.Bad as bad:
        found = (bad.first, bad.last)
    assert found == (ours.first_bad, ours.last_bad), ours.reason
    return found


def test_a_good_log_is_intact() -> None:
    log = new_log()
    verdict = verify_log(log.lines, keys(log))
    assert verdict.intact and verdict.reason == ""
    assert (verdict.size, verdict.head, verdict.root) == (
        37,
        leaf_hash(log.lines[-1][:-1]).hex(),
        log.root(37).hex(),
    )
    assert (verdict.checkpoints, verdict.covered, verdict.origin, verdict.open_attempts) == (
        3,
        32,
        "hsmd/east",
        0,
    )


def test_an_empty_log_is_intact() -> None:
    verdict = verify_log([], None)
    assert (verdict.intact, verdict.size, verdict.covered, verdict.head) == (True, 0, 0, "0" * 64)


@pytest.mark.parametrize(
    ("tail", "bad"),
    [
        (outcome_tail(0, "failed", "", "again"), (32, 37)),
        (outcome_tail(36, "failed", "", "of an outcome"), (32, 37)),
        (outcome_tail(99, "failed", "", "of nothing"), (32, 37)),
        (event_tail("log.mark", "", {"oldest_open": 37}), (None, None)),
        (event_tail("log.mark", "", {"oldest_open": 38}), (32, 37)),
        (event_tail("log.mark", "", {"oldest_open": "37"}), (32, 37)),
        (event_tail("log.mark", "", {"oldest_open": 1, "more": 1}), (32, 37)),
        (event_tail("log.checkpoint", "", {"origin": "hsmd/east"}), (32, 37)),
        (
            event_tail(
                "log.checkpoint", "ops", {"origin": "", "size": 37, "root": "00" * 32, "signature": ""}
            ),
            (32, 37),
        ),
    ],
)
def test_rules_between_records_are_checked(tail: str, bad: tuple[int | None, int | None]) -> None:
    log = new_log()
    log.add(tail)
    assert both(log) == bad


def test_a_mark_must_not_be_beyond_an_open_attempt() -> None:
    log = new_log()
    log.add(attempt_tail(attempt_stem("web-1", "", "www", b"k" * 32, "tls13-server", 0x0403), "00" * 32))
    log.add(event_tail("log.mark", "", {"oldest_open": 37}))
    assert both(log) == (None, None)
    log.add(event_tail("log.mark", "", {"oldest_open": 38}))
    assert both(log) == (32, 39)


@pytest.mark.parametrize("size", [32, 31, 38, 0])
def test_checkpoints_out_of_order_are_bad(size: int) -> None:
    log = new_log()
    log.record_checkpoint(min(size, log.size))
    if size > log.size - 1:  # covers itself
        log = new_log()
        text = verification.Checkpoint("hsmd/east", size, log.root(37))
        log.add(checkpoint_tail(text, log.signer.sign(text.text()).signatures[0].encoded))
    assert both(log) == (32, 37)


def test_the_lag_of_a_checkpoint_is_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verification, "MAX_LAG", 20)
    monkeypatch.setattr(SECOND, "LARGEST_LAG", 20)
    log = LogMaker()
    for _ in range(3):
        log.use(40)
        log.record_checkpoint(log.size - 20)
    assert both(log) == (None, None)
    log.use(40)
    log.record_checkpoint(log.size - 21)
    assert both(log) == (222, log.size - 1)


def test_only_the_record_whose_hash_the_next_one_contradicts_is_reported() -> None:
    log = new_log()
    log.lines[5] = log.lines[5].replace(b'"attempt":4', b'"attempt":3')
    assert both(log) == (5, 5)


def test_a_log_has_one_origin() -> None:
    """A PEM key is valid for any name, but a log has only one name."""
    log, other = new_log(), Signer("hsmd/north")
    checkpoint = verification.Checkpoint("hsmd/north", 37, log.root(37))
    log.add(checkpoint_tail(checkpoint, other.sign(checkpoint.text()).signatures[0].encoded))
    public = log.signer.ed25519.public_key()
    pem = public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    ours, theirs = verify_log(log.lines, KeyRing.parse(pem)), SECOND.Verification([SECOND.PublicKey(public)])
    assert (ours.first_bad, ours.last_bad) == (32, 37)
    with pytest.raises(SECOND.Bad) as bad:
        theirs.run(log.lines)
    assert (bad.value.first, bad.value.last) == (32, 37)


def test_a_log_can_be_verified_without_keys() -> None:
    log = new_log()
    assert verify_log(log.lines, None).covered == 32
    log.lines[10] = (
        log.lines[10].replace(b'"root":"', b'"root":"0').replace(b'","signature', b'","signature', 1)
    )
    assert verify_log(log.lines, None).first_bad == 10


def test_a_key_ring_reads_pem_and_verifier_keys() -> None:
    east, west = Signer(), Signer("hsmd/west", SignatureType.ECDSA)
    pem = [
        key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
        for key in (east.ed25519, west.p256)
    ]
    ring = KeyRing.parse(b"\n".join(pem) + f"\n{west.verifier.vkey}\n".encode())
    for name in ("hsmd/east", "hsmd/north"):  # a PEM key has no name
        found = ring.verifier(name, Signer(name).verifier.key_id)
        assert found == Signer(name).verifier
    only_named = KeyRing.parse(east.verifier.vkey.encode())
    assert only_named.verifier("hsmd/east", east.verifier.key_id) == east.verifier
    with pytest.raises(ProofInvalid, match="not given"):
        only_named.verifier("hsmd/north", Signer("hsmd/north").verifier.key_id)
    for nothing in (b"", b"\n", b"ssh-ed25519 AAAA\n"):
        with pytest.raises(ProtocolError):
            KeyRing.parse(nothing)


# --- the command of the second verifier ---


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    log = new_log()
    (tmp_path / "audit.jsonl").write_bytes(b"".join(log.lines))
    (tmp_path / "key").write_text(log.signer.verifier.vkey + "\n")
    key = log.signer.ed25519.public_key()
    (tmp_path / "key.pem").write_bytes(key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    (tmp_path / "seen").write_text(log.note(36))
    (tmp_path / "forged").write_text(Signer(number=9).sign(log.checkpoint(36).text()).render())
    return tmp_path


def command(*arguments: object) -> subprocess.CompletedProcess[str]:
    """Run the command as an auditor does: no module of hsmd can be imported."""
    script = [sys.executable, "-I", str(ROOT / "scripts" / "verify-audit"), *map(str, arguments)]
    return subprocess.run(script, capture_output=True, text=True, timeout=60, check=False, cwd="/")


@pytest.mark.parametrize("key", ["key", "key.pem"])
def test_the_command_verifies_a_good_log(directory: Path, key: str) -> None:
    done = command(
        directory / "audit.jsonl", "--public-key", directory / key, "--checkpoint", directory / "seen"
    )
    assert (done.returncode, done.stdout, done.stderr) == (
        0,
        "intact: 37 records, 36 of them covered by signed checkpoints\n",
        "",
    )


def test_the_command_names_the_first_bad_record(directory: Path) -> None:
    log = directory / "audit.jsonl"
    lines = log.read_bytes().splitlines(keepends=True)
    log.write_bytes(b"".join([*lines[:20], *lines[21:]]))
    done = command(log, "--public-key", directory / "key")
    assert (done.returncode, done.stdout) == (1, "20\n")
    assert "record 20 is wrong" in done.stderr
    done = command(log, "--public-key", directory / "key", "--json")
    found = json.loads(done.stdout)
    assert (done.returncode, found["first_bad"], found["last_bad"], found["records"]) == (1, 20, 20, 20)


def test_the_command_finds_a_truncated_tail_with_an_earlier_checkpoint(directory: Path) -> None:
    log = directory / "audit.jsonl"
    log.write_bytes(b"".join(log.read_bytes().splitlines(keepends=True)[:34]))
    assert command(log, "--public-key", directory / "key").returncode == 0
    done = command(log, "--public-key", directory / "key", "--checkpoint", directory / "seen")
    assert (done.returncode, done.stdout) == (1, "32\n")
    assert "there were 36" in done.stderr


def test_the_command_reads_a_directory_of_segments(directory: Path) -> None:
    lines = (directory / "audit.jsonl").read_bytes().splitlines(keepends=True)
    (directory / "segments").mkdir()
    (directory / "segments" / f"{0:012}.jsonl").write_bytes(b"".join(lines[:9]))
    (directory / "segments" / f"{9:012}.jsonl").write_bytes(b"".join(lines[9:30]))
    (directory / "segments" / "copy of 000000000009.jsonl").write_bytes(b"".join(lines[9:30]))
    (directory / "audit.jsonl").write_bytes(b"".join(lines[30:]))
    done = command(directory, "--public-key", directory / "key", "--json")
    assert (done.returncode, json.loads(done.stdout)["records"]) == (0, 37)
    (directory / "segments" / f"{9:012}.jsonl").unlink()
    assert command(directory, "--public-key", directory / "key").stdout == "9\n"


def test_sealing_while_the_second_verifier_reads_is_not_an_error(directory: Path) -> None:
    live, segments = directory / "audit.jsonl", directory / "segments"
    lines = live.read_bytes().splitlines(keepends=True)
    segments.mkdir()
    (segments / f"{0:012}.jsonl").write_bytes(b"".join(lines[:9]))
    live.write_bytes(b"".join(lines[9:30]))
    reading = SECOND.read_log(directory)
    read = [next(reading)]
    live.rename(segments / f"{9:012}.jsonl")
    live.write_bytes(b"".join(lines[30:]))
    assert [*read, *reading] == lines[:30]
    assert list(SECOND.read_log(directory)) == lines


def test_wrong_arguments_of_the_command_are_refused(directory: Path) -> None:
    log = directory / "audit.jsonl"
    other = directory / "other"
    other.write_text("this is a note about the key\n")
    for arguments, problem in {
        (log,): "the following arguments are required: --public-key",
        (
            log,
            "--public-key",
            directory / "nowhere",
        ): f"{directory}/nowhere cannot be read: No such file or directory",
        (log, "--public-key", directory): f"{directory} cannot be read: Is a directory",
        (log, "--public-key", other): f"{other}: 'this is a note about the key' is no verifier key",
        (log, "--public-key", Path("/dev/zero")): "/dev/zero: longer than",
        (directory / "nowhere", "--public-key", directory / "key"): f"{directory}/nowhere cannot be read",
        (
            log,
            "--public-key",
            directory / "key",
            "--checkpoint",
            directory / "forged",
        ): "forged: no signature by",
        (log, "--public-key", directory / "key", "--checkpoint", other): "other: not a signed note",
    }.items():
        done = command(*arguments)
        assert (done.returncode, done.stdout) == (2, "")
        last = done.stderr.splitlines()[-1]
        assert last.startswith("verify-audit: error: ") and problem in last
