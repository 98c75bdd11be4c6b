"""Signs with one key in a loop of python-pkcs11, without a daemon: `python -m hsmd.cli.bench.scale.bare_signer`.

It signs until its input ends, and then prints the longest time from one signature to the next.
"""

from __future__ import annotations

import hashlib
import json
import select
import sys
import time
from typing import Any

from pkcs11 import Mechanism, ObjectClass

from hsmd.cli.bench.scale.fill import open_session

_ROUND = 20
"""Signatures between two looks at the input."""


def main() -> None:
    """Input: {"pin_file", "cka_label"}; prints `ready`, and at the end {"longest_gap_s", "signatures"}."""
    order = json.loads(sys.stdin.readline())
    session = open_session(order["pin_file"], rw=False)
    key: Any = session.get_key(object_class=ObjectClass.PRIVATE_KEY, label=order["cka_label"])
    digest = hashlib.sha256(b"hsmd").digest()
    key.sign(digest, mechanism=Mechanism.ECDSA)
    print("ready", flush=True)
    longest, signatures, before = 0.0, 0, time.perf_counter()
    while not select.select([sys.stdin], [], [], 0)[0]:
        for _ in range(_ROUND):
            key.sign(digest, mechanism=Mechanism.ECDSA)
            now = time.perf_counter()
            longest, before = max(longest, now - before), now
        signatures += _ROUND
    print(json.dumps({"longest_gap_s": longest, "signatures": signatures}), flush=True)


if __name__ == "__main__":
    main()
