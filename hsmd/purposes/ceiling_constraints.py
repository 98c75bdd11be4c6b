"""Constraints of purposes in ceilings: what a key's ceiling permits only in part, as JSON documents by purpose.

A constraint that this release does not know permits nothing: the key is not used for that purpose, and for its others as usual.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from hsmd.errors import BadRequest, PurposeMismatch
from hsmd.purposes.allowed_names import AllowedNames
from hsmd.purposes.authority import AuthorityConstraints
from hsmd.purposes.names import Purpose, labels, purpose_from_label

ConstraintDocuments = Mapping[Purpose, Mapping[str, Any]]
"""The JSON object that constrains each purpose; purposes without one are not constrained."""
NO_CONSTRAINTS: ConstraintDocuments = {}
Rule = Callable[[bytes], None]

_SIGNS_ANYTHING = frozenset({Purpose.SIGN_MESSAGE, Purpose.SIGN_DIGEST})


def _allowed_names(document: str) -> Rule:
    allowed = AllowedNames.parse(document)
    if allowed.to_json() != document:
        raise BadRequest("constraints: the names are not sorted, in lower case, and each there once")
    return allowed.check_info


def _authority(document: str) -> Rule:
    """The rule itself needs more than the bytes, and is `authority_check.AuthorityCheck`."""
    AuthorityConstraints.parse(document)
    return lambda data: None


_KNOWN: dict[Purpose, Callable[[str], Rule]] = {
    Purpose.X509_REQUEST: _allowed_names,
    Purpose.X509_AUTHORITY: _authority,
}
"""By purpose: from a canonical JSON document to the check of the bytes to be signed, which raises PurposeMismatch.

The documents are those of limited grants. Each function raises BadRequest for one that it does not understand completely.
"""


def check_constraints(purposes: frozenset[Purpose], constraints: ConstraintDocuments) -> None:
    """Refuse constraints that a new ceiling cannot have. Raises BadRequest."""
    for purpose, document in constraints.items():
        _check_within(purposes, purpose)
        _rule(purpose, document)
    if Purpose.X509_AUTHORITY in purposes and Purpose.X509_AUTHORITY not in constraints:
        raise BadRequest(
            "purposes: a key that signs certificates has constraints; make it with hsmd ca init, not with hsmd key"
        )


def constraints_by_label(
    purposes: frozenset[Purpose], documents: Mapping[str, Mapping[str, Any]]
) -> ConstraintDocuments:
    """The constraints in a stored ceiling, known or not. Raises BadRequest if one is empty, or cannot be in this ceiling."""
    constraints = {purpose_from_label(label): document for label, document in documents.items()}
    for purpose, document in constraints.items():
        _check_within(purposes, purpose)
        if not document:
            raise BadRequest(f"constraints: those of {purpose.label} are empty")
    return constraints


def constraint_rules(constraints: ConstraintDocuments) -> dict[Purpose, Rule]:
    """The check that each constrained purpose adds; one that refuses everything where the constraint is not known."""
    return {purpose: _rule_or_refusal(purpose, document) for purpose, document in constraints.items()}


def authority_constraints(constraints: ConstraintDocuments) -> AuthorityConstraints | None:
    """What an authority's key may certify; None without it, or if this release does not know it."""
    document = constraints.get(Purpose.X509_AUTHORITY)
    if document is None:
        return None
    try:
        return AuthorityConstraints.parse(_canonical(document))
    except BadRequest:
        return None


def _canonical(document: Mapping[str, Any]) -> str:
    return msgspec.json.encode(document, order="deterministic").decode()


def _check_within(purposes: frozenset[Purpose], purpose: Purpose) -> None:
    if purpose not in purposes:
        raise BadRequest(
            f"constraints: {purpose.label} is not among the key's purposes {', '.join(labels(purposes))}"
        )
    if unbound := purposes & _SIGNS_ANYTHING:
        raise BadRequest(
            f"constraints: a key for {', '.join(labels(unbound))} can sign anything, whatever constrains {purpose.label}"
        )


def _rule(purpose: Purpose, document: Mapping[str, Any]) -> Rule:
    make = _KNOWN.get(purpose)
    if make is None:
        raise BadRequest(f"constraints: {purpose.label} has none")
    return make(_canonical(document))


def _rule_or_refusal(purpose: Purpose, document: Mapping[str, Any]) -> Rule:
    try:
        return _rule(purpose, document)
    except BadRequest:

        def refuse(data: bytes) -> None:
            raise PurposeMismatch(
                f"the key's ceiling constrains {purpose.label} in a way that this release does not know"
            )

        return refuse
