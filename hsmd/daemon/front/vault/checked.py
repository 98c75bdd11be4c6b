"""What a client states, checked: errors of signatures become errors of its request, and times are those of now."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta

from hsmd.envelopes.vault.fields import format_time
from hsmd.errors import BadRequest, EnvelopeInvalid, ProofInvalid

CLOCK_SKEW = timedelta(minutes=5)
"""How far an owner's clock may be ahead: a statement dated later would prevent later ones."""


@contextmanager
def stated_by_client() -> Iterator[None]:
    """Within this, a signature that does not verify, and text that is malformed, is a BadRequest that says so."""
    try:
        yield
    except (ProofInvalid, EnvelopeInvalid) as problem:
        raise BadRequest(problem.text) from None


def check_owner(owner: str, client: str) -> None:
    """Raises BadRequest if a statement is about another owner than the client."""
    if owner != client:
        raise BadRequest(f"text: it is a statement of {owner}, and this connection is {client}'s")


def check_time(stated_at: str, now: datetime) -> None:
    """Raises BadRequest for a statement of the future."""
    if stated_at > format_time(now + CLOCK_SKEW):
        raise BadRequest("stated_at: it is dated in the future; set your clock, and sign a new statement")
