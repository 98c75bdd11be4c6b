"""The witness: remembers the newest checkpoint of each daemon's log, and refuses a daemon whose log does not continue it.

The rules are in docs/audit.md, sections 7 and 8.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from hsmd import observe
from hsmd.client.requests import Ask
from hsmd.client.witness_memory import MAX_ADDRESSES, MAX_ORIGIN_BYTES, Memories, Memory
from hsmd.errors import BadRequest, NotFound, ProofInvalid, ProtocolError, Refused, Unavailable
from hsmd.protocol.messages import AuditCheckpoint, SignedCheckpoint
from hsmd.transparency import discontinuity as discontinuities
from hsmd.transparency.checkpoint import Checkpoint, parse
from hsmd.transparency.discontinuity import Discontinuity
from hsmd.transparency.lines import format_time
from hsmd.transparency.merkle import verify_consistency
from hsmd.transparency.note import Note, Verifier

ASK_S = 5.0
"""Time-out of the request for a checkpoint."""
TRIES = 8
"""Attempts while other connections or processes keep storing newer checkpoints of the same log."""
MAX_NOTES = 100
"""At most so many declarations are read, the newest that a daemon shows."""

log = observe.logger()


class LogRefused(ProofInvalid):
    """A daemon's log does not continue the one seen before; `origin` is its name, empty if unknown."""

    def __init__(self, address: str, origin: str, reason: str, file: Path | None = None) -> None:
        self.origin = origin
        record = f"; the last accepted checkpoint is in {file}" if file else ""
        super().__init__(
            f"the audit log of the daemon at {address} is not the one seen before: {reason}{record}"
        )


@dataclass(frozen=True, slots=True)
class _Shown:
    """A daemon's answer: a checkpoint with a valid signature, and the proof that it continues a log of `since` records."""

    checkpoint: Checkpoint
    since: int
    proof: list[bytes]
    verifier: Verifier
    note: str
    discontinuities: list[str]


class Witness:
    """The checkpoints known to one client, in `directory`; `operators` are the keys whose declarations are accepted."""

    def __init__(
        self,
        directory: Path,
        operators: Sequence[Verifier] = (),
        *,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self.memories = Memories(directory)
        self._operators = tuple(operators)
        self._now = now

    async def examine(self, address: str, ask: Ask) -> None:
        """Request the checkpoint of the daemon at `address`, and store it if it continues the one known.

        Raises LogRefused if it does not, ConfigurationError if the directory cannot be used, or what `ask` raises.
        """
        for _ in range(TRIES):
            if await self._examine_once(address, ask):
                return
        raise Unavailable(f"the stored checkpoint of the daemon at {address} kept changing; try again")

    async def _examine_once(self, address: str, ask: Ask) -> bool:
        """False if another connection or process stored a newer checkpoint meanwhile, so the comparison must be repeated."""
        known = self.memories.of_address(address)
        shown = await self._shown(address, ask, known.size if known else 0, known)
        if shown is None:
            return True
        known = self._known_of(address, known, shown)
        if known is not None and shown.since != known.size:
            shown = await self._shown(address, ask, known.size, known)
            assert shown is not None
        fresh = self._fresh(address, known, shown)
        if known is not None and (reason := _break(known, shown)):
            fresh = await self._declared_break(address, ask, known, shown, reason)
        return fresh == known or await asyncio.to_thread(self.memories.store, fresh, known)

    def _known_of(self, address: str, known: Memory | None, shown: _Shown) -> Memory | None:
        """What is stored of the log shown. Raises LogRefused if another log was seen at this address."""
        origin = shown.checkpoint.origin
        if len(origin.encode()) > MAX_ORIGIN_BYTES:
            raise LogRefused(address, "", f"its origin has more than {MAX_ORIGIN_BYTES} bytes")
        if known is None:
            return self.memories.of_origin(origin)
        if known.origin != origin:
            raise self._refusal(address, known, f"it is named {origin}; it was {known.origin}")
        return known

    async def _shown(self, address: str, ask: Ask, since: int, known: Memory | None) -> _Shown | None:
        """The newest checkpoint; None if there is none and none is known. Raises LogRefused."""
        answer = await _ask(ask, since)
        if answer is None or not answer.note:
            if known is not None:
                raise self._refusal(
                    address, known, f"it shows no checkpoint; one of {known.size} records was seen"
                )
            return None
        try:
            verifier = Verifier.from_vkey(answer.verifier_key)
            checkpoint = parse(answer.note, verifier)
        except (ProofInvalid, ProtocolError) as problem:
            raise self._refusal(address, known, problem.text) from None
        return _Shown(
            checkpoint, since, answer.proof, verifier, answer.note, answer.discontinuities[-MAX_NOTES:]
        )

    def _refusal(self, address: str, known: Memory | None, reason: str) -> LogRefused:
        if known is None:
            return LogRefused(address, "", reason)
        return LogRefused(address, known.origin, reason, self.memories.path(known.origin))

    # --- what is stored ---

    def _fresh(self, address: str, known: Memory | None, shown: _Shown, accepted: str = "") -> Memory:
        checkpoint = shown.checkpoint
        addresses = list(known.addresses) if known else []
        if address not in addresses:
            addresses = [*addresses, address][-MAX_ADDRESSES:]
        times = [one.time for one in self._declarations(shown)] + self._times_by_any_key(shown)
        return Memory(
            origin=checkpoint.origin,
            addresses=addresses,
            key=shown.verifier.vkey,
            size=checkpoint.size,
            root=checkpoint.root.hex(),
            note=shown.note,
            discontinuity=max([*times, known.discontinuity if known else ""]),
            accepted=accepted or (known.accepted if known else ""),
        )

    def _declarations(self, shown: _Shown) -> list[Discontinuity]:
        """The declarations about this log by operators whose keys are configured here."""
        found = []
        for note in shown.discontinuities:
            try:
                found.append(discontinuities.verify(note, self._operators))
            except (ProofInvalid, ProtocolError):
                continue  # by an unknown operator, or not a declaration at all
        return [one for one in found if one.origin == shown.checkpoint.origin]

    def _times_by_any_key(self, shown: _Shown) -> list[str]:
        """When declarations about this log were made, by any key: adding an operator key must not revive old ones.

        Those dated in the future do not count, so that a note by an unknown key cannot block a later one.
        """
        now = format_time(self._now())
        found = []
        for note in shown.discontinuities:
            try:
                found.append(discontinuities.parse_text(Note.parse(note).text))
            except ProtocolError:
                continue
        return [one.time for one in found if one.origin == shown.checkpoint.origin and one.time <= now]

    # --- breaks ---

    async def _declared_break(
        self, address: str, ask: Ask, known: Memory, shown: _Shown, reason: str
    ) -> Memory:
        """What to store after a break that an operator declared. Raises LogRefused for any other."""
        newer = [
            one
            for one in self._declarations(shown)
            if one.time > known.discontinuity and one.key == shown.verifier.vkey
        ]
        if not newer:
            raise self._refusal(address, known, reason)
        declared = max(newer, key=lambda one: one.time)
        state = msgspec.structs.replace(
            known, key=declared.key, size=declared.new.size, root=declared.new.root.hex()
        )
        since_then = await self._shown(address, ask, declared.new.size, known)
        assert since_then is not None
        if broken := _break(state, since_then):
            raise self._refusal(address, known, f"{broken}, although an operator declared a discontinuity")
        log.warning(
            "witness.discontinuity",
            daemon=address,
            reason=declared.reason,
            detail=f"{known.origin}: from {known.size} known records to {declared.new.size}",
        )
        return self._fresh(address, known, since_then, accepted=declared.text())


async def _ask(ask: Ask, since: int) -> SignedCheckpoint | None:
    """The daemon's answer; None if it does not support checkpoints."""
    try:
        answer: SignedCheckpoint = await ask(AuditCheckpoint(since=since), ASK_S)
    except (NotFound, Refused, BadRequest):
        # Its log may have fewer than `since` records; then it can still show what it has.
        return await _ask(ask, 0) if since else None
    return answer


def _break(known: Memory, shown: _Shown) -> str:
    """Why an answer does not continue what is known, empty if it does."""
    checkpoint = shown.checkpoint
    if shown.verifier.vkey != known.key:
        return f"its checkpoints are signed by another key, {shown.verifier.vkey}"
    if checkpoint.size < known.size:
        return f"it has {checkpoint.size} records; it had {known.size}"
    try:
        verify_consistency(
            known.size, checkpoint.size, bytes.fromhex(known.root), checkpoint.root, shown.proof
        )
    except ProofInvalid as problem:
        return problem.text
    return ""
