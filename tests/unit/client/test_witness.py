"""The witness against daemons that roll back, cut, rewrite and fork their logs, change keys and names, and restore backups."""

from __future__ import annotations

import asyncio
import json
import stat
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given, settings, strategies as st

from hsmd.client.witness import LogRefused, Witness
from hsmd.errors import BadRequest, ConfigurationError, ProofInvalid, ProtocolError, Refused, Unavailable
from hsmd.protocol.messages import AuditCheckpoint, SignedCheckpoint
from hsmd.transparency import discontinuity as discontinuities
from hsmd.transparency.declaration import OPERATOR
from hsmd.transparency.discontinuity import Discontinuity, State
from hsmd.transparency.note import Signature, SignatureType, Verifier
from tests.support.audit_logs import LogMaker, Signer

EAST, WEST = "10.0.0.1:7440", "10.0.0.2:7440"
OPERATOR_KEY = Ed25519PrivateKey.from_private_bytes(bytes([3] * 32))
OPERATORS = [Verifier.from_public_key(OPERATOR, OPERATOR_KEY.public_key())]
TIME = "2026-11-21T02:03:0{}.000000Z"


class Daemon:
    """Answers `audit.checkpoint` from a log; `refuses_ahead`: an error for a client that has seen more records than there are."""

    def __init__(self, log: LogMaker | None, *, refuses_ahead: bool = False) -> None:
        self.log = log
        self.notes: list[str] = []
        self.refuses_ahead = refuses_ahead
        self.proof: list[bytes] | None = None
        self.asked: list[int] = []

    async def ask(self, request: Any, timeout_s: float) -> SignedCheckpoint:
        assert isinstance(request, AuditCheckpoint) and timeout_s > 0
        self.asked.append(request.since)
        if self.log is None:
            return SignedCheckpoint("", [], "", [])
        if request.since > self.log.size and self.refuses_ahead:
            raise BadRequest("since: the log has fewer records")
        proof = self.log.proof(request.since) if request.since <= self.log.size else []
        proof = proof if self.proof is None else self.proof
        return SignedCheckpoint(self.log.note(), proof, self.log.signer.verifier.vkey, self.notes)


def new_log(uses: int = 4, signer: Signer | None = None) -> LogMaker:
    log = LogMaker(signer)
    log.use(uses)
    return log


@pytest.fixture
def witness(tmp_path: Path) -> Witness:
    return Witness(tmp_path / "witness")


async def refused(witness: Witness, daemon: Daemon, match: str, address: str = EAST) -> None:
    """The witness refuses the daemon's log, also when asked again, and its memory does not change."""
    before = witness.memories.all()
    for _ in range(2):
        with pytest.raises(LogRefused, match=match):
            await witness.examine(address, daemon.ask)
    assert witness.memories.all() == before


async def test_a_log_that_grows_is_followed(witness: Witness) -> None:
    daemon = Daemon(new_log())
    for _ in range(5):
        await witness.examine(EAST, daemon.ask)
        assert daemon.log is not None
        (known,) = witness.memories.all()
        assert (known.origin, known.addresses, known.size) == ("hsmd/east", [EAST], daemon.log.size)
        assert known.root == daemon.log.root(daemon.log.size).hex()
        daemon.log.use(3)
    assert daemon.asked == [0, 8, 14, 20, 26]


async def test_the_memory_is_private_and_written_only_when_it_changes(witness: Witness) -> None:
    daemon = Daemon(new_log())
    await witness.examine(EAST, daemon.ask)
    file = witness.memories.path("hsmd/east")
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700
    before = file.stat()
    await witness.examine(EAST, daemon.ask)
    assert file.stat().st_ino == before.st_ino
    assert json.loads(file.read_bytes())["size"] == 8


@pytest.mark.parametrize("refuses_ahead", [False, True])
async def test_a_log_rolled_back_or_cut_off_is_refused(witness: Witness, refuses_ahead: bool) -> None:
    daemon = Daemon(new_log(), refuses_ahead=refuses_ahead)
    older = new_log()
    assert daemon.log is not None
    daemon.log.use(1)
    await witness.examine(EAST, daemon.ask)
    daemon.log = older
    await refused(witness, daemon, "it has 8 records; it had 10.*witness/hsmd%2Feast.json")


async def test_a_rewritten_log_of_the_same_size_or_longer_is_refused(witness: Witness) -> None:
    daemon = Daemon(new_log())
    await witness.examine(EAST, daemon.ask)
    for more in (4, 7):
        forged = LogMaker()
        forged.add(*[f',"event":"forged-{number}"}}' for number in range(more * 2)])
        daemon.log = forged
        await refused(witness, daemon, "does not continue")


async def test_a_wrong_proof_is_refused(witness: Witness) -> None:
    daemon = Daemon(new_log())
    await witness.examine(EAST, daemon.ask)
    assert daemon.log is not None
    daemon.log.use(1)
    for proof in ([], [b"\0" * 32], [b"short"], daemon.log.proof(7)):
        daemon.proof = proof
        await refused(witness, daemon, "continue|hashes of 32 bytes")


async def test_a_split_view_is_refused(witness: Witness) -> None:
    """Two daemons show logs of the same origin, signed by the same key, with different histories."""
    one, other = Daemon(new_log()), Daemon(new_log())
    assert one.log is not None and other.log is not None
    one.log.use(2)
    other.log.add(',"event":"another-history"}', ',"event":"another-history"}', ',"event":"another-history"}')
    await witness.examine(EAST, one.ask)
    await refused(witness, other, "11 records; it had 12|does not continue", WEST)
    other.log.use(4)
    await refused(witness, other, "does not continue", WEST)


async def test_one_log_at_two_addresses_is_one_log(witness: Witness) -> None:
    daemon = Daemon(new_log())
    await witness.examine(EAST, daemon.ask)
    assert daemon.log is not None
    daemon.log.use(1)
    await witness.examine(WEST, daemon.ask)
    (known,) = witness.memories.all()
    assert (known.addresses, known.size) == ([EAST, WEST], 10)


async def test_another_name_or_key_is_refused(witness: Witness) -> None:
    daemon = Daemon(new_log())
    await witness.examine(EAST, daemon.ask)
    daemon.log = new_log(4, Signer("hsmd/north"))
    await refused(witness, daemon, "named hsmd/north; it was hsmd/east")
    daemon.log = new_log(4, Signer("hsmd/east", SignatureType.ECDSA))
    await refused(witness, daemon, "signed by another key")


async def test_a_daemon_without_a_checkpoint_is_accepted_until_one_was_seen(witness: Witness) -> None:
    daemon = Daemon(None)
    await witness.examine(EAST, daemon.ask)
    assert witness.memories.all() == []
    daemon.log = new_log()
    await witness.examine(EAST, daemon.ask)
    daemon.log = None
    await refused(witness, daemon, "no checkpoint; one of 8 records was seen")


async def test_a_daemon_without_the_request_is_accepted_until_one_was_seen(witness: Witness) -> None:
    async def old(request: Any, timeout_s: float) -> Any:
        raise BadRequest("unknown op")

    await witness.examine(EAST, old)
    await witness.examine(EAST, Daemon(new_log()).ask)
    for kind in (BadRequest, Refused):

        async def ask(request: Any, timeout_s: float, kind: type[Exception] = kind) -> Any:
            raise kind

        with pytest.raises(LogRefused, match="no checkpoint"):
            await witness.examine(EAST, ask)


async def test_a_daemon_that_is_unavailable_is_not_accused(witness: Witness) -> None:
    async def ask(request: Any, timeout_s: float) -> Any:
        raise Unavailable

    with pytest.raises(Unavailable):
        await witness.examine(EAST, ask)


async def test_bad_signatures_are_refused(witness: Witness) -> None:
    log = new_log()
    good = SignedCheckpoint(log.note(), [], log.signer.verifier.vkey, [])
    forged = Signer(number=9).sign(log.checkpoint().text()).render()
    for note, key in (
        (forged, good.verifier_key),
        (good.note, "nonsense"),
        (good.note, Signer("hsmd/x").verifier.vkey),
        ("x", good.verifier_key),
    ):

        async def ask(request: Any, timeout_s: float, note: str = note, key: str = key) -> Any:
            return SignedCheckpoint(note, [], key, [])

        with pytest.raises(LogRefused):
            await witness.examine(EAST, ask)
    assert witness.memories.all() == []


async def test_a_damaged_memory_is_an_error(witness: Witness) -> None:
    daemon = Daemon(new_log())
    await witness.examine(EAST, daemon.ask)
    witness.memories.path("hsmd/east").write_bytes(b"{")
    with pytest.raises(ConfigurationError, match="lost"):
        await witness.examine(EAST, daemon.ask)


async def test_a_checkpoint_stored_concurrently_by_another_process_counts(tmp_path: Path) -> None:
    """Between the daemon's answer and the update of the file, another process stores another history."""
    one, other = Daemon(new_log(5)), Daemon(new_log(4))
    assert other.log is not None
    other_process = Witness(tmp_path)
    await other_process.examine(EAST, other.ask)
    other.log.add(',"event":"another-history"}')

    async def ask(request: Any, timeout_s: float) -> SignedCheckpoint:
        answer = await one.ask(request, timeout_s)
        await other_process.examine(WEST, other.ask)
        return answer

    with pytest.raises(LogRefused):
        await Witness(tmp_path).examine(EAST, ask)
    (known,) = other_process.memories.all()
    assert known.size == 9


async def test_concurrent_witnesses_remember_one_history(tmp_path: Path) -> None:
    """In every interleaving, all processes accept the same one of two histories."""
    one, other = Daemon(new_log(4)), Daemon(new_log(4))
    assert other.log is not None
    other.log.add(',"event":"another-history"}')
    witnesses = [Witness(tmp_path) for _ in range(8)]
    results = await asyncio.gather(
        *(witness.examine(EAST, (one, other)[at % 2].ask) for at, witness in enumerate(witnesses)),
        return_exceptions=True,
    )
    assert len(Witness(tmp_path).memories.all()) == 1
    assert all(result is None or isinstance(result, (LogRefused, Unavailable)) for result in results)
    assert any(result is None for result in results)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 12)), max_size=12))
def test_a_sequence_of_states_is_accepted_only_where_it_grows(
    steps: list[tuple[int, int]],
) -> None:
    """A model: the witness accepts exactly the states that continue the largest one it accepted."""
    import tempfile

    histories = [LogMaker() for _ in range(3)]
    for number, history in enumerate(histories):
        history.add(
            *[
                f',"event":"shared-{at}"}}' if at < 4 else f',"event":"own-{number}-{at}"}}'
                for at in range(13)
            ]
        )

    async def run() -> None:
        with tempfile.TemporaryDirectory() as directory:
            witness = Witness(Path(directory))
            accepted: list[bytes] = []
            for which, size in steps:
                log = LogMaker()
                source = histories[which % 3]
                log.lines, log.leaves = source.lines[:size], source.leaves[:size]
                fits = log.leaves[: len(accepted)] == accepted
                try:
                    await witness.examine(EAST, Daemon(log).ask)
                    assert fits
                    accepted = log.leaves
                except LogRefused:
                    assert not fits

    asyncio.run(run())


# --- discontinuities ---


def declared(log: LogMaker, second: int = 1, by: Ed25519PrivateKey = OPERATOR_KEY, **changes: Any) -> str:
    values: dict[str, Any] = {
        "origin": "hsmd/east",
        "old": None,
        "new": State(log.size, log.root(log.size)),
        "key": log.signer.verifier.vkey,
        "time": TIME.format(second),
        "reason": "restored from the backup of Friday",
    } | changes
    return discontinuities.sign(Discontinuity(**values), by).render()


@pytest.fixture
def trusting(tmp_path: Path) -> Witness:
    return Witness(tmp_path / "witness", OPERATORS)


async def restored(witness: Witness) -> Daemon:
    """A daemon that was seen with 10 records, was restored with 8, and has written one more since."""
    daemon = Daemon(new_log())
    backup = new_log()
    assert daemon.log is not None
    daemon.log.use(1)
    await witness.examine(EAST, daemon.ask)
    daemon.log = backup
    return daemon


@pytest.mark.parametrize("refuses_ahead", [False, True])
async def test_a_declared_restore_is_accepted_and_recorded(trusting: Witness, refuses_ahead: bool) -> None:
    daemon = await restored(trusting)
    daemon.refuses_ahead = refuses_ahead
    assert daemon.log is not None
    daemon.notes = [declared(daemon.log)]
    daemon.log.add(',"event":"log.discontinuity"}')
    await trusting.examine(EAST, daemon.ask)
    (known,) = trusting.memories.all()
    assert (known.size, known.discontinuity) == (9, TIME.format(1))
    assert "restored from the backup of Friday" in known.accepted
    daemon.log.use(2)
    await trusting.examine(EAST, daemon.ask)


async def test_a_new_key_is_accepted_if_it_was_declared(trusting: Witness) -> None:
    await restored(trusting)
    daemon = Daemon(new_log(5, Signer("hsmd/east", SignatureType.ECDSA)))
    assert daemon.log is not None
    daemon.notes = [declared(daemon.log)]
    await trusting.examine(EAST, daemon.ask)
    (known,) = trusting.memories.all()
    assert known.key == daemon.log.signer.verifier.vkey


async def test_declarations_about_other_logs_and_keys_are_ignored(trusting: Witness) -> None:
    daemon = await restored(trusting)
    assert daemon.log is not None
    west, other = Signer("hsmd/west").verifier.vkey, Signer("hsmd/east", SignatureType.ECDSA).verifier.vkey
    daemon.notes = [
        declared(daemon.log, 5), declared(daemon.log, 6, key=other), declared(daemon.log, 9, origin="hsmd/west", key=west),
    ]  # fmt: skip
    await trusting.examine(EAST, daemon.ask)
    (known,) = trusting.memories.all()
    assert known.discontinuity == TIME.format(6)


@pytest.mark.parametrize(
    "changes",
    [
        {"origin": "hsmd/west", "key": Signer("hsmd/west").verifier.vkey},
        {"new": State(8, b"\1" * 32)},
        {"new": State(9, b"\1" * 32)},
        {"key": Signer("hsmd/east", SignatureType.ECDSA).verifier.vkey},
        {"new": State(7, b"\1" * 32)},
    ],
)
async def test_a_declaration_of_another_state_is_not_accepted(
    trusting: Witness, changes: dict[str, Any]
) -> None:
    daemon = await restored(trusting)
    assert daemon.log is not None
    daemon.notes = [declared(daemon.log, **changes)]
    await refused(trusting, daemon, "8 records; it had 10|although an operator")


async def test_only_declarations_of_pinned_operators_count(trusting: Witness, tmp_path: Path) -> None:
    daemon = await restored(trusting)
    assert daemon.log is not None
    daemon.notes = [declared(daemon.log, by=Ed25519PrivateKey.generate()), "nonsense", daemon.log.note()]
    await refused(trusting, daemon, "it had 10")
    daemon.notes = [declared(daemon.log)]
    await refused(Witness(tmp_path / "witness"), daemon, "it had 10")  # no operator is pinned
    await trusting.examine(EAST, daemon.ask)


async def test_a_declaration_is_accepted_once(trusting: Witness) -> None:
    daemon = await restored(trusting)
    assert daemon.log is not None
    backup = daemon.log.copy()
    daemon.notes = [declared(backup)]
    await trusting.examine(EAST, daemon.ask)
    daemon.log.use(1)
    await trusting.examine(EAST, daemon.ask)
    daemon.log = backup
    await refused(trusting, daemon, "it had 10")
    daemon.notes += [declared(backup, 2)]
    await trusting.examine(EAST, daemon.ask)


async def test_a_declaration_made_before_the_first_contact_is_used_up(trusting: Witness) -> None:
    daemon = Daemon(new_log())
    assert daemon.log is not None
    backup = daemon.log.copy()
    daemon.notes = [declared(backup)]
    daemon.log.use(1)
    await trusting.examine(EAST, daemon.ask)
    daemon.log = backup
    await refused(trusting, daemon, "it had 10")


async def test_a_declaration_shown_before_its_operator_was_pinned_is_used_up(
    witness: Witness, tmp_path: Path
) -> None:
    daemon = Daemon(new_log())
    assert daemon.log is not None
    backup = daemon.log.copy()
    daemon.notes = [
        declared(backup),
        declared(backup, by=Ed25519PrivateKey.generate(), time="2999-01-01T00:00:00.000000Z"),
    ]
    daemon.log.use(1)
    noon = datetime(2026, 11, 21, 12, tzinfo=UTC)
    await Witness(tmp_path / "witness", now=lambda: noon).examine(EAST, daemon.ask)
    daemon.log = backup
    pinned = Witness(tmp_path / "witness", OPERATORS, now=lambda: noon)
    await refused(pinned, daemon, "it had 10")
    daemon.notes.append(declared(backup, 2))  # a note by an unknown key, dated in the future, blocks no other
    await pinned.examine(EAST, daemon.ask)


async def test_an_operator_can_delete_the_memory_of_a_log(witness: Witness) -> None:
    daemon = await restored(witness)
    assert not witness.memories.forget("hsmd/west")
    assert witness.memories.forget("hsmd/east")
    await witness.examine(EAST, daemon.ask)


@pytest.mark.parametrize(
    "changes",
    [
        {"reason": ""},
        {"reason": "two\nlines"},
        {"reason": "x" * 201},
        {"time": "now"},
        {"key": Signer("hsmd/x").verifier.vkey},
        {"new": State(1, b"")},
    ],
)
def test_invalid_declarations_cannot_be_made(changes: dict[str, Any]) -> None:
    with pytest.raises(BadRequest):
        declared(new_log(), **changes)


@pytest.mark.parametrize("old", [None, State(20, b"\2" * 32)])
def test_a_declaration_is_rebuilt_from_its_record(old: State | None) -> None:
    note = discontinuities.Note.parse(declared(new_log(), old=old))
    fields = discontinuities.to_fields(note)
    assert note_of(fields) == note
    assert discontinuities.verify(note, OPERATORS).old == old
    LogMaker().add(discontinuities_tail(fields))
    with pytest.raises(ProofInvalid):
        discontinuities.verify(note_of(fields | {"reason": "another"}), OPERATORS)
    for name in fields:
        with pytest.raises((ProtocolError, ProofInvalid)):
            discontinuities.verify(
                note_of({key: value for key, value in fields.items() if key != name}),
                OPERATORS,
            )


def note_of(fields: dict[str, str | int]) -> discontinuities.Note:
    """The note that a record `log.discontinuity` holds, built as docs/audit.md, section 8, describes."""

    def state(which: str) -> State:
        return State(int(fields[f"{which}_size"]), bytes.fromhex(str(fields[f"{which}_root"])))

    try:
        old = state("old") if "old_size" in fields else None
        origin, key, time, reason = (str(fields[name]) for name in ("origin", "key", "declared", "reason"))
        text = Discontinuity(origin, old, state("new"), key, time, reason).text()
        return discontinuities.Note(text, (Signature.decode(OPERATOR, str(fields["signature"])),))
    except (KeyError, ValueError, BadRequest) as problem:
        raise ProtocolError(str(problem)) from None


def discontinuities_tail(fields: dict[str, str | int]) -> str:
    from hsmd.transparency.lines import event_tail

    return event_tail("log.discontinuity", "ops", fields)


@given(st.text(max_size=80), st.integers(0, 400))
def test_changed_declarations_are_refused(put: str, at: int) -> None:
    text = declared(new_log(1))
    changed = text[:at] + put + text[at + len(put) :]
    if changed == text:
        return
    with pytest.raises((ProtocolError, ProofInvalid)):
        discontinuities.verify(changed, OPERATORS)


def test_the_golden_declaration_is_reproduced() -> None:
    text = Discontinuity(
        "hsmd/east",
        State(10, b"\0" * 32),
        State(8, b"\1" * 32),
        Signer().verifier.vkey,
        TIME.format(4),
        "backup",
    ).text()
    assert text == (
        "hsmd discontinuity v1\norigin hsmd/east\nold 10 AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=\n"
        "new 8 AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE=\nkey hsmd/east+bdffbf3d+AepKbGPinFIKvvVQexMuxfmVR3auvr57kkIe6mkURtIs\n"
        "time 2026-11-21T02:03:04.000000Z\nreason backup\n"
    )
