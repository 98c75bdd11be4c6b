"""The checkpointer alone: a log that grows while the token signs still verifies."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from hsmd.algorithms import KeyType
from hsmd.daemon.audit import AuditLog
from hsmd.daemon.front.checkpoints import checkpointer
from hsmd.daemon.front.checkpoints.checkpointer import Checkpointer
from hsmd.daemon.front.checkpoints.continuity import Continuity
from hsmd.daemon.front.signing.hold import KeyHold
from hsmd.errors import AuditFailure
from hsmd.system.log_files import log_lines
from hsmd.transparency import merkle, verification
from hsmd.transparency.keyring import KeyRing
from hsmd.transparency.lines import leaf_hash
from hsmd.transparency.note import Verifier

LAG = 50
ORIGIN = "hsmd/x"


class Bench:
    """A checkpointer with its own log and a key in memory; `during` runs while a checkpoint is signed."""

    def __init__(self, directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.directory = directory
        self.private = Ed25519PrivateKey.generate()
        self.public = self.private.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        self.during: Callable[[], None] = lambda: None
        monkeypatch.setattr(checkpointer, "sign_as_daemon", self._sign)
        self.open()

    def open(self) -> None:
        """Open the log as the daemon does when it starts."""
        self.audit = AuditLog.open(self.directory)
        self.tree = self.audit.tree()
        key: Any = SimpleNamespace(public_key=self.public, key_type=KeyType.ED25519)
        snapshot: Any = SimpleNamespace(checkpoint_keys=[key])
        cache: Any = SimpleNamespace(change_unversioned=self._remember)
        service: Any = None
        continuity = Continuity(
            ORIGIN, audit=self.audit, cache=cache, hold=KeyHold(), remembered=None, discontinuities=[]
        )
        self.checkpointer = Checkpointer(
            origin=ORIGIN,
            audit=self.audit,
            tree=self.tree,
            service=service,
            snapshot=lambda: snapshot,
            continuity=continuity,
            make_key=self._make_no_key,
        )

    def record(self, count: int) -> None:
        """Write records that no checkpoint covers yet."""
        for number in range(count):
            self.audit.event("test.event", "", number=number)
        self.audit.commit()

    async def close(self) -> None:
        self.tree.close()
        await self.audit.close()

    async def _sign(self, *arguments: Any) -> bytes:
        self.during()
        data: bytes = arguments[5]
        return self.private.sign(data)

    async def _make_no_key(self, _deadline: float) -> None:
        raise AssertionError("the checkpoint key exists")

    async def _remember(self, _action: Any) -> None:
        """The store accepts every checkpoint."""


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    return Bench(tmp_path / "audit", monkeypatch)


async def test_a_checkpoint_too_far_behind_the_log_is_not_recorded(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (checkpointer, verification):
        monkeypatch.setattr(module, "MAX_LAG", LAG, raising=False)
    bench.record(1)
    bench.during = lambda: bench.record(LAG + 1)
    with pytest.raises(AuditFailure):
        await bench.checkpointer.checkpoint()
    bench.during = lambda: bench.record(LAG - 1)
    await bench.checkpointer.checkpoint()
    assert bench.checkpointer.newest is not None
    await bench.close()
    verdict = verification.verify_log(
        log_lines(bench.directory), KeyRing([Verifier.from_spki(ORIGIN, bench.public)])
    )
    assert (verdict.intact, verdict.reason, verdict.checkpoints) == (True, "", 1)


async def test_proofs_are_available_before_a_lost_tree_is_rebuilt(bench: Bench) -> None:
    """After a restore there are no tree files: the recalled checkpoint is offered at once, and proofs about it are given."""
    bench.record(20)
    await bench.checkpointer.checkpoint()
    newest = bench.checkpointer.newest
    assert newest is not None
    size, root = newest.checkpoint.size, newest.checkpoint.root
    await bench.close()
    shutil.rmtree(bench.directory / "tree")
    bench.open()
    assert bench.checkpointer.newest is not None and bench.tree.size == 0
    proof = await bench.checkpointer.consistency(7, size)
    merkle.verify_consistency(7, size, await bench.checkpointer.root_at(7), root, proof)
    lines = [line.rstrip(b"\n") for line in log_lines(bench.directory)]
    inclusion = await bench.checkpointer.inclusion(3, size)
    merkle.verify_inclusion(3, size, leaf_hash(lines[3]), inclusion, root)
    await bench.close()
