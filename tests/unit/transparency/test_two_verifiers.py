"""hsmd and scripts/verify-audit, which share no code, give the same verdict on hostile notes, key files, records and logs."""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from hsmd.errors import ProofInvalid, ProtocolError
from hsmd.system.log_files import log_lines
from hsmd.transparency import checkpoint as checkpoints
from hsmd.transparency.keyring import KeyRing
from hsmd.transparency.lines import START, event_tail, extend
from hsmd.transparency.note import SignatureType
from hsmd.transparency.verification import verify_log
from tests.support.audit_logs import LogMaker, Signer, checkpoint_tail, second_verifier

SECOND = second_verifier()
EAST, WEST = Signer(), Signer("hsmd/west", SignatureType.ECDSA)
WITNESS = Signer("witness.example.org/w1", number=8)


def a_log() -> LogMaker:
    log = LogMaker()
    log.use(5)
    log.record_checkpoint()
    return log


TEXT = a_log().checkpoint(8).text()
PEM = b"-----BEGIN PUBLIC KEY-----\n%b\n-----END PUBLIC KEY-----\n"


def pem(key: ec.EllipticCurvePublicKey | ed25519.Ed25519PublicKey | rsa.RSAPublicKey) -> bytes:
    return key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def line(signer: Signer, text: str = TEXT) -> str:
    """The signature line over a text."""
    return signer.sign(text).render().rpartition("\n\n")[2]


def raw_line(name: str, signature: bytes) -> str:
    return f"\u2014 {name} {base64.b64encode(signature).decode()}\n"


def changed(signature_line: str) -> str:
    """The same signature line with another signature."""
    head, _, encoded = signature_line.removesuffix("\n").rpartition(" ")
    raw = bytearray(base64.b64decode(encoded))
    raw[-1] ^= 1
    return f"{head} {base64.b64encode(raw).decode()}\n"


def text_with(number: int, value: str) -> str:
    """A signed note whose text has this line in place of another."""
    lines = TEXT.split("\n")
    lines[number] = value
    text = "\n".join(lines)
    return f"{text}\n{line(EAST, text)}"


NOTE = f"{TEXT}\n{line(EAST)}"
FOREIGN = line(WITNESS)
LOOSE = "AAAAAAB="  # five zero bytes, with unused bits set
NOTES: dict[str, tuple[str | bytes, bool]] = {
    "good": (NOTE, True),
    "foreign signature behind": (NOTE + FOREIGN, True),
    "foreign signature in front": (f"{TEXT}\n{FOREIGN}{line(EAST)}", True),
    "foreign signatures of 5 kB": (NOTE + raw_line("pq.example.org", bytes(5_000)) * 15, True),
    "unknown key of our name": (NOTE + line(Signer(number=9)), True),
    "our key id under another name": (
        NOTE + raw_line("hsmd/north", EAST.verifier.key_id + bytes(64)),
        True,
    ),
    "signed twice": (NOTE + line(EAST), True),
    "100 signatures": (NOTE + FOREIGN * 99, True),
    "101 signatures": (NOTE + FOREIGN * 100, False),
    "longer than any note": (NOTE + raw_line("pq.example.org", bytes(5_000)) * 20, False),
    "wrong signature": (f"{TEXT}\n{changed(line(EAST))}", False),
    "good and wrong signature": (NOTE + changed(line(EAST)), False),
    "wrong and good signature": (f"{TEXT}\n{changed(line(EAST))}{line(EAST)}", False),
    "foreign signature alone": (f"{TEXT}\n{FOREIGN}", False),
    "no signature": (TEXT, False),
    "empty": ("", False),
    "no line feed at its end": (NOTE.removesuffix("\n"), False),
    "trailing text": (NOTE + "more\n", False),
    "trailing empty line": (NOTE + "\n", False),
    "trailing text behind an empty line": (NOTE + "\nmore\n", False),
    "undecodable foreign signature": (NOTE + "\u2014 foreign ?\n", False),
    "foreign signature in another spelling": (NOTE + f"\u2014 foreign {LOOSE}\n", False),
    "foreign signature of a key id alone": (NOTE + raw_line("foreign", bytes(4)), False),
    "foreign line without a signature": (NOTE + "\u2014 foreign\n", False),
    "key name with a space": (NOTE + raw_line("two words", bytes(9)), False),
    "key name with a no-break space": (NOTE + raw_line("two\u00a0words", bytes(9)), False),
    "key name with a plus": (NOTE + raw_line("a+b", bytes(9)), False),
    "empty key name": (NOTE + raw_line("", bytes(9)), False),
    "hyphen in place of the dash": (NOTE.replace("\u2014", "-"), False),
    "two spaces": (NOTE.replace("\u2014 ", "\u2014  "), False),
    "carriage returns": (NOTE.replace("\n", "\r\n"), False),
    "tabulator in a foreign name": (NOTE + raw_line("a\tb", bytes(9)), False),
    "byte order mark": ("\ufeff" + NOTE, False),
    "not UTF-8": (NOTE.encode() + b"\xe2\x80\x94 \xff AAAAAAA=\n", False),
    "extension line": (text_with(3, "extension\n"), False),
    "empty line in the text": (text_with(3, "\n"), False),
    "no root": (text_with(2, ""), False),
    "root of 31 bytes": (text_with(2, base64.b64encode(bytes(31)).decode()), False),
    "root in another spelling": (text_with(2, base64.b64encode(bytes(32)).decode()[:-2] + "B="), False),
    "negative size": (text_with(1, "-8"), False),
    "size with a sign": (text_with(1, "+8"), False),
    "size with a zero in front": (text_with(1, "08"), False),
    "size in other digits": (text_with(1, "\u0668"), False),
    "size with a low line": (text_with(1, "1_0"), False),
    "size of 17 digits": (text_with(1, "1" * 17), False),
    "size of 5,000 digits": (text_with(1, "1" * 5_000), False),
    "no size": (text_with(1, ""), False),
    "origin that is no daemon's": (text_with(0, "example.org/log"), False),
    "origin with a space": (text_with(0, "hsmd/east 1"), False),
    "no origin": (text_with(0, ""), False),
    "signed under another name": (f"{TEXT}\n{line(WEST)}", False),
}


@pytest.mark.parametrize("case", NOTES)
def test_notes(case: str) -> None:
    note, good = NOTES[case]
    data = note.encode() if isinstance(note, str) else note
    keys = "\n".join(each.verifier.vkey for each in (EAST, WEST)).encode()
    try:
        found = checkpoints.parse_signed(data, KeyRing.parse(keys))
        ours = found.size, found.root
    except (ProtocolError, ProofInvalid):
        ours = None
    try:
        theirs = SECOND.read_note(data, SECOND.read_keys(keys))
    except SECOND.Unreadable:
        theirs = None
    assert ours == theirs
    assert (ours is not None) == good


VKEY, P256_VKEY = EAST.verifier.vkey, WEST.verifier.vkey
P384_PEM = pem(ec.generate_private_key(ec.SECP384R1()).public_key())
RSA_PEM = pem(rsa.generate_private_key(65537, 1024).public_key())
KEY_FILES: dict[str, tuple[str | bytes, int]] = {
    "one": (VKEY, 1),
    "lines with carriage returns": (f"{VKEY}\r\n{P256_VKEY}\r\n", 2),
    "empty lines": (f"\n\n{VKEY}\n\n", 1),
    "PEM and line": (pem(WEST.p256.public_key()) + VKEY.encode(), 2),
    "nothing": ("", 0),
    "another text": ("this is not a key\n", 0),
    "a comment": (f"# east\n{VKEY}\n", 0),
    "two plus signs": ("a+b+c\n", 0),
    "SSH key": ("ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJ9 web1\n", 0),
    "a key and other text": (f"{VKEY}\nmore\n", 0),
    "name with a space": (VKEY.replace("hsmd/east", "hsmd east"), 0),
    "another name": (VKEY.replace("east", "west"), 0),
    "upper-case key id": (VKEY.replace("bdffbf3d", "BDFFBF3D"), 0),
    "another type": (f"a+00000000+{base64.b64encode(bytes([3] * 33)).decode()}", 0),
    "short Ed25519 key": (f"a+00000000+{base64.b64encode(bytes([1] * 32)).decode()}", 0),
    "DER that is none": (f"a+00000000+{base64.b64encode(bytes([2] * 40)).decode()}", 0),
    "nothing in base64": ("a+00000000+====", 0),
    "PEM of nothing": (PEM % b"", 0),
    "PEM of other bytes": (PEM % base64.b64encode(bytes(40)), 0),
    "PEM that is cut off": (pem(WEST.p256.public_key())[:60], 0),
    "P-384": (P384_PEM, 0),
    "RSA": (RSA_PEM, 0),
    "a private key": (b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n", 0),
    "bytes": (bytes(range(256)), 0),
}


@pytest.mark.parametrize("case", KEY_FILES)
def test_key_files(case: str) -> None:
    text, count = KEY_FILES[case]
    data = text.encode() if isinstance(text, str) else text
    try:
        KeyRing.parse(data)
        ours = True
    except ProtocolError:
        ours = False
    try:
        theirs = len(SECOND.read_keys(data))
    except SECOND.Unreadable:
        theirs = 0
    assert (ours, theirs) == (count > 0, count)


# --- records and logs ---


ANY_NAME = pem(EAST.ed25519.public_key())


def verdicts(lines: list[bytes]) -> tuple[int | None, int | None]:
    """The bad records that both verifiers report, which must be the same; the key signs under any name."""
    ours = verify_log(lines, KeyRing.parse(ANY_NAME))
    theirs = SECOND.Verification(SECOND.read_keys(ANY_NAME))
    found: tuple[int | None, int | None] = (None, None)
    try:
        theirs.run(lines)
    except SECOND.Bad as bad:
        found = (bad.first, bad.last)
    assert found == (ours.first_bad, ours.last_bad), ours.reason
    return found


def checkpoint_record(**changes: str | int) -> Callable[[LogMaker], str]:
    """The tail of a checkpoint record with other fields, signed as it is."""

    def tail(log: LogMaker) -> str:
        checkpoint = log.checkpoint()
        fields = {
            "origin": checkpoint.origin,
            "size": checkpoint.size,
            "root": checkpoint.root.hex(),
            **changes,
        }
        text = f"{fields['origin']}\n{fields['size']}\n{base64.b64encode(checkpoint.root).decode()}\n"
        signature = Signer(str(fields["origin"])).sign(text).signatures[0].encoded
        return event_tail("log.checkpoint", "", {"signature": signature, **fields})

    return tail


def of_client(log: LogMaker) -> str:
    tail = checkpoint_tail(log.checkpoint(), log.signer.sign(log.checkpoint().text()).signatures[0].encoded)
    return tail.replace(',"fields"', ',"client":"ops","fields"')


def event(name: str, **fields: str | int) -> Callable[[LogMaker], str]:
    return lambda log: event_tail(name, "", fields)


TAILS: dict[str, tuple[Callable[[LogMaker], str], bool]] = {
    "checkpoint": (checkpoint_record(), True),
    "checkpoint of a client": (of_client, False),
    "checkpoint with more": (checkpoint_record(more=1), False),
    "checkpoint of another kind of log": (checkpoint_record(origin="example.org/log"), False),
    "checkpoint of a log without a name": (checkpoint_record(origin="hsmd/"), False),
    "checkpoint with a long origin": (checkpoint_record(origin="hsmd/" + "n" * 65), False),
    "checkpoint with a negative size": (checkpoint_record(size=-1), False),
    "root in capitals": (checkpoint_record(root=a_log().root(11).hex().upper()), False),
    "mark": (event("log.mark", oldest_open=11), True),
    "negative mark": (event("log.mark", oldest_open=-1), False),
    "mark without its field": (event("log.mark", oldest=1), False),
    "torn": (event("log.torn", bytes=12, sha256="00" * 32), True),
    "negative torn": (event("log.torn", bytes=-12, sha256="00" * 32), False),
    "negative recovered": (event("log.recovered", dropped=-1), False),
    "negative refusals": (event("log.refusals", count=-1), False),
    "refusals in words": (event("log.refusals", count="many"), False),
    "negative segment": (event("log.segment", first=-1), False),
    "negative discontinuity": (event("log.discontinuity", new_size=-1), False),
    "use of a grant": (event("grant.used", attempt=8, grant=1, number=1), True),
    "negative use of a grant": (event("grant.used", attempt=8, grant=1, number=-1), False),
    "negative number of another event": (event("worker.crashed", penalty_s=-1), True),
}


@pytest.mark.parametrize("case", TAILS)
def test_records_of_the_log_itself(case: str) -> None:
    tail, good = TAILS[case]
    log = a_log()
    log.add(tail(log))
    assert verdicts(log.lines) == ((None, None) if good else (10, 11))


TIMES = {
    "2026-11-30T23:59:59.999999Z": True,
    "2024-02-29T00:00:00.000000Z": True,
    "0001-01-01T00:00:00.000000Z": True,
    "2026-99-99T02:03:04.567890Z": False,
    "2026-02-29T00:00:00.000000Z": False,
    "2026-11-31T00:00:00.000000Z": False,
    "2026-11-30T24:00:00.000000Z": False,
    "2026-11-30T23:59:60.000000Z": False,
    "2026-11-30T23:60:00.000000Z": False,
    "0000-01-01T00:00:00.000000Z": False,
    "2026-11-30T02:03:04.56789Z": False,
    "2026-11-30T02:03:04.567890+00:00": False,
    "2026-11-30 02:03:04.567890Z": False,
    "2026-W48-1T02:03:04.567890Z": False,
}


@pytest.mark.parametrize("time", TIMES)
def test_times(time: str) -> None:
    data, _ = extend(START, time, [event_tail("a", "", {})])
    assert verdicts(data.splitlines(keepends=True)) == ((None, None) if TIMES[time] else (0, 0))


# --- directories ---


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    lines = a_log().lines
    segments = tmp_path / "segments"
    segments.mkdir()
    (segments / f"{0:012}.jsonl").write_bytes(b"".join(lines[:4]))
    (segments / f"{4:012}.jsonl").write_bytes(b"".join(lines[4:9]))
    (tmp_path / "audit.jsonl").write_bytes(b"".join(lines[9:]))
    return tmp_path


def read(path: Path) -> list[bytes] | None:
    """The lines that both verifiers read, which must be the same; None if there is no log."""

    def lines(reading: Iterator[bytes]) -> list[bytes] | None:
        try:
            return list(reading)
        except OSError:
            return None

    ours, theirs = lines(log_lines(path)), lines(SECOND.read_log(path))
    assert ours == theirs
    return ours


def test_a_directory_is_read(directory: Path) -> None:
    assert read(directory) == a_log().lines


def test_an_interrupted_seal_leaves_a_log_that_can_be_verified(directory: Path) -> None:
    (directory / "audit.jsonl").rename(directory / "segments" / f"{9:012}.jsonl")
    lines = read(directory)
    assert lines == a_log().lines
    assert verdicts(lines) == (None, None)


def test_a_directory_without_records_is_no_log(directory: Path) -> None:
    (directory / "audit.jsonl").unlink()
    for segment in (directory / "segments").iterdir():
        segment.unlink()
    assert read(directory) is None
    (directory / "segments").rmdir()
    assert read(directory) is None
    assert read(directory / "nowhere") is None


def test_files_with_other_names_are_no_segments(directory: Path) -> None:
    for name in ("0000000000004.jsonl", "4.jsonl", "000000000004.jsonl.old", "00000000000x.jsonl"):
        (directory / "segments" / name).write_text("not a segment")
    assert read(directory) == a_log().lines


def test_segments_are_read_in_the_order_of_their_numbers(directory: Path) -> None:
    (directory / "segments" / "1000000000000.jsonl").write_bytes(b"last\n")
    lines = read(directory)
    assert lines is not None
    assert lines == [*a_log().lines[:9], b"last\n", *a_log().lines[9:]]
