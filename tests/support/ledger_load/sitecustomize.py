"""Makes each front process write to the ledger at a steady rate while a file exists.

It also counts how often the front reads the contents of the store, or what is different in them: a byte for each in the file
HSMD_TEST_LEDGER_LOADS.

Python imports this at the start of a launcher whose PYTHONPATH names this directory, and then of its front. A writer in the
front shares the interpreter with the requests, as the writes of handlers do. HSMD_TEST_LEDGER_URL: the store;
HSMD_TEST_LEDGER_SWITCH: the file; HSMD_TEST_LEDGER_RATE: writes per second and front.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
import traceback
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

POLL_S = 0.05
FRONT = "hsmd.daemon.front.app"
_popen = subprocess.Popen.__init__


def start_with_this_file(self: Any, args: Any, *more: Any, **options: Any) -> None:
    """Start a process; a launcher gives a front another PYTHONPATH than its own."""
    if FRONT in args:
        path = os.pathsep.join([options["env"]["PYTHONPATH"], str(Path(__file__).parent)])
        options["env"] = {**options["env"], "PYTHONPATH": path}
    _popen(self, args, *more, **options)


def count_loads(file: Path) -> None:
    """The database's own statistics would show a load of an idle connection only after ten seconds."""
    from hsmd.daemon.store import Transaction

    difference = Transaction.difference

    def counted(transaction: Transaction, *arguments: Any) -> Any:
        with file.open("ab", buffering=0) as count:
            count.write(b".")
        return difference(transaction, *arguments)

    Transaction.difference = counted  # type: ignore[method-assign]


def write_steadily(url: str, switch: Path, rate: float) -> None:
    """Append one event and step one counter in each transaction; unsteady commits are made up for."""
    from hsmd.daemon.store import Readers, Store, Transaction
    from hsmd.protocol.roles import Role

    def write(tx: Transaction) -> None:
        tx.counters.step("load")
        tx.events.append(
            "load", "subject", readers=readers, payload={"text": "x" * 100}, now=datetime.now(UTC)
        )

    store, readers = Store(url), Readers(roles=frozenset({Role.OPERATOR}))
    while True:
        while not switch.exists():
            time.sleep(POLL_S)
        began, done = time.monotonic(), 0
        while switch.exists():
            store.change(write, versioned=False)
            done += 1
            time.sleep(max(0.0, began + done / rate - time.monotonic()))


def report_failure(loads: Path, url: str, switch: Path, rate: float) -> None:
    """A failed writer is seen in the daemon's log; the test counts what was written."""
    try:
        count_loads(loads)
        write_steadily(url, switch, rate)
    except BaseException:
        traceback.print_exc()


if "serve" in sys.orig_argv:
    subprocess.Popen.__init__ = start_with_this_file  # type: ignore[method-assign]
if FRONT in sys.orig_argv:
    settings = (
        Path(os.environ["HSMD_TEST_LEDGER_LOADS"]),
        os.environ["HSMD_TEST_LEDGER_URL"],
        Path(os.environ["HSMD_TEST_LEDGER_SWITCH"]),
        float(os.environ["HSMD_TEST_LEDGER_RATE"]),
    )
    threading.Thread(target=report_failure, args=settings, daemon=True).start()
