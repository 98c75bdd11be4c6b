"""Audit logs with signed checkpoints for tests, and the second verifier of scripts/ as a module."""

from __future__ import annotations

import importlib.machinery
import importlib.util
import sys
from collections.abc import Iterable
from hashlib import sha256
from pathlib import Path
from random import Random
from types import ModuleType

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519

from hsmd.transparency.chain import Follower
from hsmd.transparency.checkpoint import Checkpoint
from hsmd.transparency.lines import (
    Head,
    attempt_stem,
    attempt_tail,
    event_tail,
    extend,
    leaf_hash,
    outcome_tail,
)
from hsmd.transparency.merkle import Frontier, consistency_proof
from hsmd.transparency.note import Note, SignatureType, Verifier, signed, to_be_signed

ROOT = Path(__file__).parents[2]
TIME = "2026-11-21T02:03:04.567890Z"


class Signer:
    """A key that signs checkpoints."""

    def __init__(
        self, name: str = "hsmd/east", kind: SignatureType = SignatureType.ED25519, number: int = 7
    ) -> None:
        self.ed25519 = ed25519.Ed25519PrivateKey.from_private_bytes(bytes([number] * 32))
        self.p256 = ec.derive_private_key(number, ec.SECP256R1())
        key = self.ed25519 if kind == SignatureType.ED25519 else self.p256
        self.verifier = Verifier.from_public_key(name, key.public_key())

    def sign(self, text: str) -> Note:
        data = to_be_signed(text)
        if self.verifier.kind == SignatureType.ED25519:
            return signed(text, self.verifier, [self.ed25519.sign(data)])
        return signed(text, self.verifier, [self.p256.sign(data, ec.ECDSA(hashes.SHA256()))])


class LogMaker:
    """A log that grows in memory; `lines` carry their line feeds."""

    def __init__(self, signer: Signer | None = None) -> None:
        self.signer = signer or Signer()
        self.lines: list[bytes] = []
        self.leaves: list[bytes] = []
        self._head = Head()

    def copy(self) -> LogMaker:
        other = LogMaker(self.signer)
        other.lines, other.leaves, other._head = list(self.lines), list(self.leaves), self._head
        return other

    @property
    def size(self) -> int:
        return len(self.lines)

    def add(self, *tails: str) -> None:
        data, self._head = extend(self._head, TIME, tails)
        fresh = data.splitlines(keepends=True)
        self.lines += fresh
        self.leaves += [leaf_hash(line[:-1]) for line in fresh]

    def use(self, count: int, random: Random | None = None) -> None:
        """Add `count` uses of a key, each an attempt and its outcome, and other events at random."""
        stem = attempt_stem("web-1", "SHA256:x", "www", b"k" * 32, "tls13-server", 0x0403)
        for number in range(count):
            asked = sha256(b"%d" % number).hexdigest()
            self.add(attempt_tail(stem, asked))
            if random and random.random() < 0.2:
                self.add(event_tail("key.generate", "ops", {"number": number}))
            self.add(outcome_tail(self._last_attempt(), "performed", asked))

    def _last_attempt(self) -> int:
        return max(
            at for at in range(max(0, self.size - 3), self.size) if b'"event":"attempt"' in self.lines[at]
        )

    def root(self, size: int) -> bytes:
        tree = Frontier()
        tree.append(self.leaves[:size])
        return tree.root()

    def checkpoint(self, size: int | None = None) -> Checkpoint:
        size = self.size if size is None else size
        return Checkpoint(self.signer.verifier.name, size, self.root(size))

    def note(self, size: int | None = None) -> str:
        return self.signer.sign(self.checkpoint(size).text()).render()

    def record_checkpoint(self, size: int | None = None) -> None:
        checkpoint = self.checkpoint(size)
        signature = self.signer.sign(checkpoint.text()).signatures[0].encoded
        self.add(checkpoint_tail(checkpoint, signature))

    def proof(self, first: int, second: int | None = None) -> list[bytes]:
        return consistency_proof(first, self.size if second is None else second, self.node)

    def node(self, level: int, position: int) -> bytes:
        tree = Frontier()
        tree.append(self.leaves[position << level : (position + 1) << level])
        return tree.root()


def checkpoint_tail(checkpoint: Checkpoint, signature: str) -> str:
    fields = {
        "origin": checkpoint.origin, "size": checkpoint.size, "root": checkpoint.root.hex(), "signature": signature,
    }  # fmt: skip
    return event_tail("log.checkpoint", "", fields)


def end_of_chain(lines: Iterable[bytes]) -> Head:
    """Check the chain of a log; return its head. A line may or may not include its line feed."""
    chain = Follower()
    for line in lines:
        chain.follow(line.removesuffix(b"\n"))
    return chain.position


def rechained(tails: Iterable[str]) -> list[bytes]:
    """Lines with recomputed indices and hashes, as an attacker without the signing key can make them."""
    data, _ = extend(Head(), TIME, list(tails))
    return data.splitlines(keepends=True)


def tail_of(line: bytes) -> str:
    """The part of a line that does not depend on its position."""
    return line.decode().rstrip("\n").partition(f'"time":"{TIME}"')[2]


def second_verifier() -> ModuleType:
    """scripts/verify-audit as a module."""
    path = str(ROOT / "scripts" / "verify-audit")
    loader = importlib.machinery.SourceFileLoader("verify_audit", path)
    spec = importlib.util.spec_from_loader("verify_audit", loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    before, sys.dont_write_bytecode = sys.dont_write_bytecode, True
    try:
        loader.exec_module(module)
    finally:
        sys.dont_write_bytecode = before
    return module
