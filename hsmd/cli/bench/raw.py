"""Reference measurement: signatures per second of a single python-pkcs11 process in a loop on the same token.

Runs as `python -m hsmd.cli.bench.raw`; reads a JSON object from standard input and prints one.
"""

from __future__ import annotations

import hashlib
import json
import sys
import time
from pathlib import Path
from typing import Any

import pkcs11

ROUND = 20
"""Signatures between two readings of the clock."""
WARM_UP_S = 0.2


def main() -> None:
    """Input: {"module", "pin_file", "seconds", "labels": [CKA_LABEL, ...]}; output: {label: signatures per second}."""
    order = json.load(sys.stdin)
    token = next(pkcs11.lib(order["module"]).get_tokens())
    pin = Path(order["pin_file"]).read_text(encoding="utf-8").strip()
    with token.open(user_pin=pin) as session:
        rates = {label: _rate(session, label, order["seconds"]) for label in order["labels"]}
    json.dump(rates, sys.stdout)


def _rate(session: pkcs11.Session, label: str, seconds: float) -> float:
    key: Any = session.get_key(object_class=pkcs11.ObjectClass.PRIVATE_KEY, label=label)
    if key.key_type is pkcs11.KeyType.EC:
        data, mechanism, parameter = hashlib.sha256(b"hsmd").digest(), pkcs11.Mechanism.ECDSA, None
    else:
        pss = (pkcs11.Mechanism.SHA256, pkcs11.MGF.SHA256, 32)
        data, mechanism, parameter = hashlib.sha256(b"hsmd").digest(), pkcs11.Mechanism.RSA_PKCS_PSS, pss

    def signatures(until: float) -> int:
        done = 0
        while time.perf_counter() < until:
            for _ in range(ROUND):
                key.sign(data, mechanism=mechanism, mechanism_param=parameter)
            done += ROUND
        return done

    signatures(time.perf_counter() + WARM_UP_S)
    started = time.perf_counter()
    return signatures(started + seconds) / (time.perf_counter() - started)


if __name__ == "__main__":
    main()
