"""What requests of the vault cost beyond a control request (`front/ssh/tariff.py`), in microseconds of the client's account."""

from __future__ import annotations

from hsmd.system.intake import paying

CHALLENGE = 100.0
SEAL = 600.0
"""Sealing a secret; the dearest suite is ML-KEM-768 with X25519, to which the key has to be loaded."""
PROOF = 400.0
"""Verifying a proof, and the transaction that reads the management key."""
STATEMENT = 300.0
"""Verifying a statement."""
POSSESSION = 3_000.0
"""Verifying the possession of a key that the client chose, such as an RSA key of 8192 bits."""
CHECK = 1_500.0
"""One answer, with the record of its signature."""


def charge(cost: float) -> None:
    """Charge the client for which the current task works; nothing if the daemon works for itself."""
    intake = paying.get()
    if intake is not None:
        intake.spend(cost)
