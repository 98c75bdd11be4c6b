"""The checkpointer alone: a log that runs away while the token signs still verifies."""

from __future__ import annotations

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
from hsmd.transparency import verification
from hsmd.transparency.keyring import KeyRing
from hsmd.transparency.note import Verifier

LAG = 50


async def test_a_checkpoint_that_the_log_has_outrun_is_not_recorded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    private = Ed25519PrivateKey.generate()
    public = private.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    audit = AuditLog.open(tmp_path / "audit")
    tree = audit.tree()
    meanwhile = LAG + 1

    async def sign(
        _service: Any, _identity: Any, _key: Any, _purpose: Any, _scheme: Any, data: bytes, _deadline: float
    ) -> bytes:
        for number in range(meanwhile):
            audit.event("test.event", "", number=number)
        return private.sign(data)

    async def no_key(_deadline: float) -> None:
        raise AssertionError("there is one")

    async def remember(_action: Any) -> None:
        """The store takes every checkpoint."""

    for module in (checkpointer, verification):
        monkeypatch.setattr(module, "MAX_LAG", LAG, raising=False)
    monkeypatch.setattr(checkpointer, "sign_as_daemon", sign)
    key: Any = SimpleNamespace(public_key=public, key_type=KeyType.ED25519)
    snapshot: Any = SimpleNamespace(checkpoint_keys=[key])
    service: Any = None
    cache: Any = SimpleNamespace(change_unversioned=remember)
    continuity = Continuity(
        "hsmd/x", audit=audit, cache=cache, hold=KeyHold(), remembered=None, discontinuities=[]
    )
    made = Checkpointer(
        origin="hsmd/x",
        audit=audit,
        tree=tree,
        service=service,
        snapshot=lambda: snapshot,
        continuity=continuity,
        make_key=no_key,
    )
    audit.event("daemon.started", "")
    audit.commit()
    with pytest.raises(AuditFailure):
        await made.checkpoint()
    meanwhile = LAG - 1
    await made.checkpoint()
    assert made.newest is not None
    tree.close()
    await audit.close()
    verdict = verification.verify_log(
        log_lines(tmp_path / "audit"), KeyRing([Verifier.from_spki("hsmd/x", public)])
    )
    assert (verdict.intact, verdict.reason, verdict.checkpoints) == (True, "", 1)
