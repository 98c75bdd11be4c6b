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


class Harness:
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
def harness(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Harness:
    return Harness(tmp_path / "audit", monkeypatch)


async def test_a_checkpoint_too_far_behind_the_log_is_not_recorded(
    harness: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (checkpointer, verification):
        monkeypatch.setattr(module, "MAX_LAG", LAG, raising=False)
    harness.record(1)
    harness.during = lambda: harness.record(LAG + 1)
    with pytest.raises(AuditFailure):
        await harness.checkpointer.checkpoint()
    harness.during = lambda: harness.record(LAG - 1)
    await harness.checkpointer.checkpoint()
    assert harness.checkpointer.newest is not None
    await harness.close()
    verdict = verification.verify_log(
        log_lines(harness.directory), KeyRing([Verifier.from_spki(ORIGIN, harness.public)])
    )
    assert (verdict.intact, verdict.reason, verdict.checkpoints) == (True, "", 1)


async def test_proofs_are_available_before_a_lost_tree_is_rebuilt(harness: Harness) -> None:
    """After a restore there are no tree files: the recalled checkpoint is offered at once, and proofs about it are given."""
    harness.record(20)
    await harness.checkpointer.checkpoint()
    newest = harness.checkpointer.newest
    assert newest is not None
    size, root = newest.checkpoint.size, newest.checkpoint.root
    await harness.close()
    shutil.rmtree(harness.directory / "tree")
    harness.open()
    assert harness.checkpointer.newest is not None and harness.tree.size == 0
    proof = await harness.checkpointer.consistency(7, size)
    merkle.verify_consistency(7, size, await harness.checkpointer.root_at(7), root, proof)
    lines = [line.rstrip(b"\n") for line in log_lines(harness.directory)]
    inclusion = await harness.checkpointer.inclusion(3, size)
    merkle.verify_inclusion(3, size, leaf_hash(lines[3]), inclusion, root)
    await harness.close()
