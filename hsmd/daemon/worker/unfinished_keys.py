"""Marks in the token for keys that are being stored, so that a worker that is killed meanwhile leaves nothing behind.

A key from an envelope consists of three objects. Before the first one is created, a private data object (application
`hsmd-unfinished`, label = key digest in hex) notes the CKA_ID that they get, and which process creates them; it is destroyed
after the last one, the ceiling. The next control worker destroys what a dead process has not finished. A process of another
host, user or namespace of processes counts as dead after an hour.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import msgspec
from pkcs11 import Attribute, ObjectClass

from hsmd.daemon.worker import ceilings
from hsmd.daemon.worker.private_keys import HALF_WRITTEN
from hsmd.pkcs11.templates import checked

APPLICATION = "hsmd-unfinished"
STALE_S = 3_600.0
"""Storing a key takes well below a second."""
_FIND = {Attribute.CLASS: ObjectClass.DATA, Attribute.APPLICATION: APPLICATION}


class Maker(msgspec.Struct, frozen=True):
    """A process, so that it can be told from a later one with its number."""

    place: str
    """Boot of a host, namespace of processes in it, and user: one may not see the processes of another."""
    pid: int
    started: str
    """Start of the process in clock ticks since boot (proc(5), field 22 of stat)."""


class _Mark(msgspec.Struct, forbid_unknown_fields=True):
    """The JSON document in the data object."""

    version: int
    key: str
    cka_id: str
    maker: Maker
    made_at: float


def this_process() -> Maker:
    """The running process. Raises OSError."""
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    namespace = os.stat("/proc/self/ns/pid").st_ino
    return Maker(f"{boot}:{namespace}:{os.getuid()}", os.getpid(), _started("self"))


@contextmanager
def marked(session: Any, digest: bytes, cka_id: bytes, now: float) -> Iterator[None]:
    """Keep a mark while the objects of a key are created; an error destroys them. Raises PKCS11Error."""
    mark = _Mark(1, digest.hex(), cka_id.hex(), this_process(), now)
    template = {
        Attribute.CLASS: ObjectClass.DATA,
        Attribute.TOKEN: True,
        Attribute.PRIVATE: True,
        Attribute.MODIFIABLE: False,
        Attribute.APPLICATION: APPLICATION,
        Attribute.LABEL: digest.hex(),
        Attribute.VALUE: msgspec.json.encode(mark),
    }
    made = session.create_object(checked(template))
    try:
        yield
    except BaseException:
        _destroy_all(session, cka_id)
        made.destroy()
        raise
    made.destroy()


def clean(session: Any, now: float) -> int:
    """Destroy what dead processes have not finished; returns the number of keys. Raises PKCS11Error."""
    cleaned = 0
    for data_object in list(session.get_objects(_FIND)):
        mark = _read(data_object)
        if mark is None or not _dead(mark, now):
            continue
        digest, cka_id = bytes.fromhex(mark.key), bytes.fromhex(mark.cka_id)
        finished = ceilings.of_key(session, digest)
        if finished is None or finished.cka_id != cka_id:
            _destroy_all(session, cka_id)
            cleaned += 1
        data_object.destroy()
    return cleaned


def _destroy_all(session: Any, cka_id: bytes) -> None:
    for kind in (ObjectClass.PRIVATE_KEY, ObjectClass.PUBLIC_KEY):
        template = {Attribute.CLASS: kind, Attribute.TOKEN: True, Attribute.ID: cka_id}
        for found in list(session.get_objects(checked(template))):
            found.destroy()


def _read(data_object: Any) -> _Mark | None:
    """The mark in a data object, None if it is none, or another worker has just destroyed it."""
    try:
        mark = msgspec.json.decode(data_object[Attribute.VALUE], type=_Mark)
        private = data_object[Attribute.PRIVATE]
        valid = (
            mark.version == 1 and len(bytes.fromhex(mark.key)) == 32 and len(bytes.fromhex(mark.cka_id)) > 0
        )
    except (*HALF_WRITTEN, msgspec.MsgspecError, ValueError):
        return None
    return mark if private and valid else None


def _dead(mark: _Mark, now: float) -> bool:
    here = this_process()
    if mark.maker.place != here.place:
        return now - mark.made_at > STALE_S
    if mark.maker == here:
        return True  # one request at a time: an earlier one of this process has failed
    with suppress(OSError):
        return _started(str(mark.maker.pid)) != mark.maker.started
    return True


def _started(process: str) -> str:
    # The name of the program, in parentheses, may contain anything.
    return Path("/proc", process, "stat").read_text().rpartition(")")[2].split()[19]
