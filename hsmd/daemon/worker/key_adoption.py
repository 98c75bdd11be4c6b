"""Adopting private keys that are already in the token: finding one, checking it, and giving it a ceiling."""

from __future__ import annotations

from typing import Any

from pkcs11 import Attribute

from hsmd.daemon.worker import ceilings, private_keys, reserves
from hsmd.daemon.worker.ceilings import Ceiling
from hsmd.daemon.worker.key_pairs import MAX_SHARING, KeyPairs, Unproven
from hsmd.daemon.worker.public_halves import PublicHalves
from hsmd.errors import BadRequest, Conflict
from hsmd.pkcs11 import templates
from hsmd.pkcs11.attributes import read
from hsmd.pkcs11.public_keys import PublicHalf, private_fits
from hsmd.purposes import KeyUse, Purpose, check_ceiling, labels, use_of
from hsmd.purposes.ceiling_constraints import NO_CONSTRAINTS, ConstraintDocuments


def adopt(
    session: Any,
    private: Any,
    half: PublicHalf,
    purposes: frozenset[Purpose],
    *,
    accept_unsafe: bool,
    constraints: ConstraintDocuments = NO_CONSTRAINTS,
) -> tuple[Ceiling, list[str]]:
    """Give a private key a ceiling, or find the one it has; returns it and the key's unsafe attributes.

    The key has proved that it belongs to `half`. Raises BadRequest, Conflict, PKCS11Error.
    """
    unsafe = templates.unsafe_attributes(private)
    existing = ceilings.of_key(session, half.digest)
    if existing is not None:
        return _same_ceiling(existing, purposes, constraints), unsafe
    if any(ceilings.objects_of(session, half.digest)):
        raise Conflict(
            "the token has a ceiling for this key that this release cannot read, or two that differ; use the release "
            "that wrote it, or another key"
        )
    if not purposes:
        raise BadRequest(
            "purposes: the key has no purposes yet; give what it may be used for, for example tls13-server"
        )
    check_ceiling(half.key_type, purposes)
    reserve = reserves.of_key(session, half.digest)
    if reserve is not None:
        reserves.check_adoption(session, reserve, purposes, constraints)
    _check_capability(private, purposes)
    if unsafe and not accept_unsafe:
        raise BadRequest(f"accept_unsafe: the key is {', '.join(unsafe)}; generate a new one, or accept that")
    return ceilings.write(session, half, read(private, Attribute.ID) or b"", purposes, constraints), unsafe


def find_pair(
    session: Any, *, cka_id: bytes, cka_label: str, digest: bytes, certified: PublicHalf | None
) -> tuple[Any, PublicHalf]:
    """The one private key with this CKA_ID, CKA_LABEL or digest (at most one is given), and its public half, proved.

    `certified` is the public half from a certificate; it decides among private keys that share a name. Raises BadRequest if
    there is no such key, or more than one, or if it cannot be paired.
    """
    found = _named(session, cka_id, cka_label, digest, certified)
    pairs = KeyPairs()
    if certified is not None:
        return _of_certificate(pairs, found, certified), certified
    if len(found) > 1:
        raise BadRequest(
            f"{len(found)} private keys have this name; give the certificate of the one you mean, or a name that only one has"
        )
    try:
        half = _half_in_token(session, pairs, found[0])
    except Unproven as unproven:
        raise BadRequest(f"cka_id: the key cannot be used: {unproven.text}; adopt another one") from None
    if half is None:
        raise BadRequest(
            "certificate: the token shows no public key that belongs to this private key, or its type is not served; "
            "give its certificate if `hsmd key candidates` calls it public-key-missing"
        )
    return found[0], half


def shown_half(pairs: KeyPairs, private: Any, halves: PublicHalves) -> PublicHalf | None:
    """The public half of a private key as the token shows it, proved only where more than one fits; None if there is none.

    Raises Unproven if the key would have to prove itself and cannot, PKCS11Error.
    """
    return pairs.half_of(private, halves.near(private))


def _named(
    session: Any, cka_id: bytes, cka_label: str, digest: bytes, certified: PublicHalf | None
) -> list[Any]:
    if cka_id:
        found = private_keys.with_id(session, cka_id)
    elif cka_label:
        # As `hsmd key candidates` shows it, which is not always what the token holds.
        found = private_keys.with_label(session, cka_label) or [
            key for key in _everything(session) if read(key, Attribute.LABEL) == cka_label
        ]
    elif certified is not None and digest in (b"", certified.digest):
        found = [key for key in _everything(session) if private_fits(key, certified)]
    else:
        halves, pairs = PublicHalves.of(session), KeyPairs()
        found = [key for key in _everything(session) if _has_digest(pairs, key, halves, digest)]
    if not found:
        raise BadRequest(
            "the token has no such private key; `hsmd key candidates` lists those that can be adopted"
        )
    return found


def _everything(session: Any) -> list[Any]:
    return [key for keys in private_keys.by_id(session).values() for key in keys]


def _has_digest(pairs: KeyPairs, private: Any, halves: PublicHalves, digest: bytes) -> bool:
    try:
        half = shown_half(pairs, private, halves)
    except Unproven:
        return False
    return half is not None and half.digest == digest


def _of_certificate(pairs: KeyPairs, privates: list[Any], certified: PublicHalf) -> Any:
    """The private key that proves to be that of a certificate."""
    problem = "certificate: it is for another key"
    fitting = [private for private in privates if private_fits(private, certified)]
    for private in fitting[:MAX_SHARING]:
        try:
            if pairs.proves(private, certified):
                return private
        except Unproven as unproven:
            problem = f"cka_id: the key cannot be used: {unproven.text}; adopt another one"
    raise BadRequest(problem)


def _half_in_token(session: Any, pairs: KeyPairs, private: Any) -> PublicHalf | None:
    """The public half that the private key proves to have: first among objects with its CKA_ID, then in the whole token."""
    near = PublicHalves.of(session, read(private, Attribute.ID) or b"").near(private)
    half = pairs.half_of(private, near, prove=True)
    return half or pairs.half_of(private, PublicHalves.of(session).all_for(private), prove=True)


def _same_ceiling(
    existing: Ceiling, purposes: frozenset[Purpose], constraints: ConstraintDocuments
) -> Ceiling:
    if purposes and purposes != existing.purposes:
        fixed = ", ".join(labels(existing.purposes))
        raise Conflict(f"purposes: the key's purposes were fixed as {fixed}; omit them, or use another key")
    if constraints and constraints != existing.constraints:
        raise Conflict("constraints: what the key may certify was fixed otherwise; use another key")
    return existing


def _check_capability(private: Any, purposes: frozenset[Purpose]) -> None:
    """Refuse a key that the token does not let do this, and one that unwraps if it does anything else.

    Keys that sign or decrypt besides are refused as unsafe, unless that is accepted.
    """
    use = use_of(purposes)
    if not templates.may(private, templates.PRIVATE_USES[use]):
        raise BadRequest(f"purposes: the token does not let this key {use.value}")
    if use is KeyUse.UNWRAP and (others := templates.other_uses(private, use)):
        raise BadRequest(
            f"purposes: a key that unwraps must do nothing else, and the token lets this one {' and '.join(others)}; "
            "generate a new key"
        )
