"""What an operator is told about a key object in a token: the finding of the worker, and what the store knows of that key."""

from __future__ import annotations

from hsmd.daemon.ipc.worker_messages import Candidate
from hsmd.daemon.store.records import KeyRecord
from hsmd.protocol.messages import KeyCandidate

RESTORE = "restore the token from its backup"


def key_candidate(found: Candidate, record: KeyRecord | None, token: str) -> KeyCandidate:
    """The finding about an object of `token`; `record` is the key with its digest in the store, in whichever token."""
    finding, why, next_step = found.finding, found.why, found.next_step
    here = record is not None and record.token == token
    if finding == "private-key-missing":
        rest = f"remove what is left: hsmd key destroy {record.name}" if record and here else "leave it"
        next_step = f"{RESTORE}, or {rest}"
    elif finding == "served" and not record:
        finding, why = "not-in-store", "its ceiling is in the token, and the store does not list the key"
        next_step = f"hsmd key adopt NAME {_selection(found)}"
    elif finding in ("served", "adoptable", "unsafe") and record and not here:
        finding, why = "not-in-store", f"the store lists it as {record.name}, in the token {record.token}"
        next_step = ""
    elif finding in ("adoptable", "unsafe") and record:
        finding, why = (
            "not-served",
            f"it is {record.name} according to the store, and its ceiling is not in the token",
        )
        next_step = RESTORE
    return KeyCandidate(
        found.cka_id,
        found.cka_label,
        found.key_type,
        list(found.unsafe),
        finding,
        why,
        next_step,
        found.key,
        found.shared,
    )


def _selection(found: Candidate) -> str:
    """The option that names this object and no other."""
    return f"--id {found.cka_id}" if found.cka_id and not found.shared else f"--digest {found.key}"
