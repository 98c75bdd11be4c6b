"""A process of an owner of keys in the vault: deposits the keys of files with `hsmd.holder`, takes them out, and holds them.

    python -m tests.support.vault_owner < SETTINGS

SETTINGS is one JSON object: `endpoint` (members of Endpoint), `owners` with name, identity file, file of the management key and
its passphrase, and `keys`: files, by record; those that end in `.secret` are symmetric. It prints `deposited`, takes keys out
again and again, and ends with its standard input.
"""

from __future__ import annotations

import json
import sys
import threading
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from hsmd.client import Client, Endpoint
from hsmd.holder import acquisitions, brought_keys, deposits, management_files
from hsmd.holder.deposits import KeyToDeposit, PrivateKeyInMemory, SecretInMemory, Terms
from hsmd.holder.management_keys import SoftwareManagementKey
from hsmd.holder.proving import Prover
from hsmd.holder.seen import Seen


def key_in(path: Path) -> KeyToDeposit:
    """The key in a file."""
    content = path.read_bytes()
    if path.suffix == ".secret":
        return SecretInMemory(content)
    return PrivateKeyInMemory(brought_keys.from_file(content, None))


def management_key(settings: dict[str, Any]) -> SoftwareManagementKey:
    file, _ = management_files.read(Path(settings["management_key"]))
    return management_files.open_key(file, settings["passphrase"].encode())


def main() -> None:
    settings = json.loads(sys.stdin.readline())
    ends = threading.Event()
    threading.Thread(target=lambda: (sys.stdin.read(), ends.set()), daemon=True).start()
    keys = {record: key_in(Path(path)) for record, path in settings["keys"].items()}
    endpoint = settings["endpoint"]
    with ExitStack() as stack:
        owners: list[tuple[Prover, Seen]] = []
        for each in settings["owners"]:
            mine = {**endpoint, "user": each["name"], "identity_file": Path(each["identity_file"])}
            client = stack.enter_context(Client.connect(Endpoint(**mine, host_keys=tuple(each["host_keys"]))))
            owners.append((Prover(client, management_key(each)), Seen(Path(each["seen"]))))
        for prover, seen in owners:
            for record, key in keys.items():
                deposits.put(prover, seen, key, record, Terms(), datetime.now(UTC))
        print("deposited", flush=True)
        held: dict[str, bytes] = {}
        while not ends.wait(0.05):
            for prover, seen in owners:
                for record, key in keys.items():
                    opened = acquisitions.get(prover, seen, record).open(prover.key)
                    assert key.is_in(opened)
                    held[f"{prover.key.statement.owner}/{record}"] = opened
            print("taken", flush=True)


if __name__ == "__main__":
    main()
