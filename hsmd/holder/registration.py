"""Registration of a management key: its statement, and the proof that its wrapping key opens."""

from __future__ import annotations

import msgspec

from hsmd.holder.management_keys import ManagementKey
from hsmd.holder.proving import Daemon, prove_wrapping
from hsmd.protocol.messages import VaultRegister, VaultRegistered


def register(daemon: Daemon, key: ManagementKey) -> VaultRegistered:
    """Register a first management key, or one after a loss. An operator has to confirm it. Raises HsmdError."""
    request = VaultRegister(key.signed.text, key.signed.signature)
    proof = prove_wrapping(daemon, key, request)
    answer: VaultRegistered = daemon.control(msgspec.structs.replace(request, wrapping_proof=proof))
    return answer
