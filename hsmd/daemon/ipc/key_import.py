"""Importing a private key from a PEM file: the side of `hsmd key import`, which never reads the key itself.

It opens the files and passes their descriptors to a one-shot worker (`hsmd.daemon.worker.key_import`), which reads the PIN and
the key.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec

from hsmd.daemon.ipc.spawn import start_worker_module
from hsmd.daemon.ipc.worker_messages import KeyDescription
from hsmd.daemon.ipc.worker_settings import WorkerSettings
from hsmd.errors import BadRequest, TokenFailure, from_wire
from hsmd.protocol.messages import Name, PurposeLabel
from hsmd.purposes import expand, labels, with_daemon_purposes
from hsmd.system.input_files import open_file

IMPORT_TIMEOUT_S = 60.0


class ImportOrder(msgspec.Struct, frozen=True):
    """The name of the new key, its ceiling, and whether a weak one is imported."""

    name: Name
    purposes: list[PurposeLabel]
    accept_weak: bool = False


class Failure(msgspec.Struct, frozen=True):
    """Why nothing was imported: an error's code, its text, and its detail for operators."""

    code: int
    text: str
    detail: str


def import_key(
    settings: WorkerSettings,
    *,
    environment: Mapping[str, str],
    pem: Path,
    passphrase: Path | None,
    name: str,
    purposes: Sequence[str],
    accept_weak: bool = False,
) -> KeyDescription:
    """Import the private key in `pem` into the token that `settings` choose.

    `purposes` are labels; the purposes that the daemon needs for certificates are added. A weak key is refused unless
    `accept_weak`; then its weaknesses are warnings of the description. Raises BadRequest naming the fix,
    Conflict, Unavailable, or TokenFailure.
    """
    ceiling = with_daemon_purposes(expand(purposes))
    order = msgspec.convert(
        {"name": name, "purposes": labels(ceiling), "accept_weak": accept_weak}, type=ImportOrder
    )
    descriptors = [_open(pem, "pem")]
    try:
        arguments = ["--pem-fd", str(descriptors[0])]
        if passphrase is not None:
            descriptors.append(_open(passphrase, "passphrase"))
            arguments += ["--passphrase-fd", str(descriptors[1])]
        return _run(settings, order, arguments, environment, descriptors)
    finally:
        for fd in descriptors:
            os.close(fd)


def _run(
    settings: WorkerSettings,
    order: ImportOrder,
    arguments: Sequence[str],
    environment: Mapping[str, str],
    descriptors: Sequence[int],
) -> KeyDescription:
    process = start_worker_module(
        "hsmd.daemon.worker.key_import",
        arguments,
        settings,
        order,
        environment=environment,
        descriptors=descriptors,
        stdout=subprocess.PIPE,
    )
    try:
        output, _ = process.communicate(timeout=IMPORT_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        raise TokenFailure(
            "the token did not import the key in time; check with `hsmd key list` whether it is there"
        ) from None
    return _result(output)


def _result(output: bytes) -> KeyDescription:
    try:
        return msgspec.json.decode(output, type=KeyDescription)
    except msgspec.MsgspecError:
        pass
    try:
        failure = msgspec.json.decode(output, type=Failure)
    except msgspec.MsgspecError:
        raise TokenFailure("the import worker failed; its standard error says why") from None
    error = from_wire(failure.code, failure.text)
    error.detail = failure.detail
    raise error


def _open(path: Path, what: str) -> int:
    try:
        return open_file(path)
    except OSError as error:
        raise BadRequest(f"{what}: {path} cannot be read: {error.strerror}; check the path") from None
