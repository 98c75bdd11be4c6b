"""Errors of the owner's side in the user's words, each with the next step."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from hsmd.cli.base.errors import CommandError, Exit
from hsmd.errors import BadRequest, Conflict, EnvelopeInvalid, NotFound, ProofInvalid, Refused

_MEMBERS = frozenset(
    {"client", "envelope", "owner", "possession", "public", "record", "signature", "text", "version"}
)
"""Members of requests of the vault, which begin errors of the daemon and say nothing to an owner."""


@contextmanager
def explained(why_refused: Callable[[], CommandError | None] = lambda: None) -> Iterator[None]:
    """Turn what is refused on the owner's side, and refused proofs, into errors with advice; others pass.

    `why_refused` finds out why a daemon does not take a proof; None if it cannot.
    """
    try:
        yield
    except Refused as error:
        raise why_refused() or CommandError(
            error.text,
            "the daemon does not take this proof, or you may not do this: `hsmd vault keys` shows which management key is "
            "active, and whether it is held after a restore, `hsmd status` your roles",
        ) from error
    except (ProofInvalid, EnvelopeInvalid) as error:
        raise command_error(error) from error
    except (BadRequest, Conflict, NotFound) as error:
        member, _, text = error.text.partition(": ")
        if member in _MEMBERS:
            raise type(error)(text) from error
        raise


def command_error(error: ProofInvalid | EnvelopeInvalid) -> CommandError:
    """What was found in something that a daemon gave, or in a file; exit code 4."""
    problem, _, advice = error.text.rpartition("; ")
    if not problem:
        problem, advice = error.text, "do not use it before you know why"
    return CommandError(problem, advice, Exit.PROBLEMS)
