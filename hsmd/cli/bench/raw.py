"""The yardstick: how many signatures one python-pkcs11 process makes in a plain loop on the same token.

Run as a process of its own: `python -m hsmd.cli.bench.raw`; reads one JSON object from standard input and prints one.
"""

from __future__ import annotations

import hashlib
import json
import sys
import time
from pathlib import Path

import pkcs11

ROUND = 50
"""Signatures between two looks at the clock."""


def main() -> None:
    """Input: {"module", "label", "pin_file", "seconds", "keys": {name: CKA_ID in hex}}; output: {name: per second}."""
    order = json.load(sys.stdin)
    library = pkcs11.lib(order["module"])
    token = library.get_token(token_label=order["label"])
    pin = Path(order["pin_file"]).read_text().strip()
    with token.open(user_pin=pin) as session:
        rates = {name: _rate(session, bytes.fromhex(cka_id), order["seconds"]) for name, cka_id in order["keys"].items()}
    json.dump(rates, sys.stdout)


def _rate(session: pkcs11.Session, cka_id: bytes, seconds: float) -> float:
    key = session.get_key(object_class=pkcs11.ObjectClass.PRIVATE_KEY, id=cka_id)
    if key.key_type is pkcs11.KeyType.EC:
        data, mechanism = hashlib.sha256(b"hsmd").digest(), pkcs11.Mechanism.ECDSA
    else:
        data, mechanism = b"hsmd", pkcs11.Mechanism.SHA256_RSA_PKCS
    for _ in range(ROUND):
        key.sign(data, mechanism=mechanism)
    done, started = 0, time.perf_counter()
    while (elapsed := time.perf_counter() - started) < seconds:
        for _ in range(ROUND):
            key.sign(data, mechanism=mechanism)
        done += ROUND
    return done / elapsed


if __name__ == "__main__":
    main()
