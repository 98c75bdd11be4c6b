"""The one-shot import worker: puts a private key from a PEM file into the token, on the token's own host.

`python -m hsmd.daemon.worker.key_import --pem-fd N [--passphrase-fd M]` reads the worker settings and the import order from
standard input, one JSON line each, and writes one JSON document to standard output, a KeyDescription or a Failure. The
private key reaches no other process and no network.
"""

from __future__ import annotations

import argparse
import os
import sys
import traceback
from typing import NoReturn

import msgspec

from hsmd.daemon.ipc import sandbox
from hsmd.daemon.ipc.key_import import Failure, ImportOrder
from hsmd.daemon.ipc.worker_messages import KeyDescription
from hsmd.daemon.ipc.worker_settings import WorkerSettings
from hsmd.daemon.worker import key_objects
from hsmd.daemon.worker.control import WRITE_PROTECTED, describe
from hsmd.daemon.worker.main import EXIT_CRASHED, read_settings
from hsmd.daemon.worker.memory_lock import lock_memory
from hsmd.daemon.worker.pem_keys import read_private_key
from hsmd.daemon.worker.pem_text import MAX_PEM_BYTES
from hsmd.errors import HsmdError, TokenFailure
from hsmd.pkcs11.errors import name_of
from hsmd.pkcs11.session import open_token
from hsmd.purposes import expand
from hsmd.system.process import harden

_MAX_ORDER_BYTES = 65_536
_MAX_PASSPHRASE_BYTES = 1024


def main() -> NoReturn:
    """Run one import; never returns."""
    status = EXIT_CRASHED
    try:
        harden()
        settings = read_settings()
        order = msgspec.json.decode(sys.stdin.buffer.readline(_MAX_ORDER_BYTES), type=ImportOrder)
        status = _report(settings, order)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def _report(settings: WorkerSettings, order: ImportOrder) -> int:
    answer: KeyDescription | Failure
    try:
        answer = _import(settings, order)
    except HsmdError as error:
        answer = Failure(int(error.code), error.text, error.detail)
    sys.stdout.buffer.write(msgspec.json.encode(answer) + b"\n")
    return 0 if isinstance(answer, KeyDescription) else 1


def _import(settings: WorkerSettings, order: ImportOrder) -> KeyDescription:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pem-fd", type=int, required=True)
    parser.add_argument("--passphrase-fd", type=int, default=-1)
    arguments = parser.parse_args()
    passphrase = None
    if arguments.passphrase_fd >= 0:
        passphrase = (
            _read(arguments.passphrase_fd, _MAX_PASSPHRASE_BYTES).removesuffix(b"\n").removesuffix(b"\r")
        )
    content = _read(arguments.pem_fd, MAX_PEM_BYTES + 1)
    key = read_private_key(content, passphrase, accept_weak=order.accept_weak)
    purposes = expand(order.purposes)
    lock_memory(settings)
    install_sandbox = sandbox.prepare(settings)
    token = open_token(settings.token)
    install_sandbox()
    if token.write_protected:
        raise TokenFailure(WRITE_PROTECTED)
    try:
        ceiling = key_objects.import_pair(token.session, order.name, key.half, key.attributes, purposes)
    except HsmdError:
        raise
    except Exception as error:
        raise TokenFailure(f"the token refused the key: {name_of(error)}") from None
    return describe(ceiling, order.name, [f"accepted although weak: {each}" for each in key.weaknesses])


def _read(fd: int, limit: int) -> bytes:
    with os.fdopen(fd, "rb") as file:
        return file.read(limit)


if __name__ == "__main__":
    main()
