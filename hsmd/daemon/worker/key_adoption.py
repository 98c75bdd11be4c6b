"""Adopting private keys that are already in the token: finding one, checking it, and giving it a ceiling."""

from __future__ import annotations

from typing import Any

from pkcs11 import Attribute

from hsmd.daemon.worker import ceilings
from hsmd.daemon.worker.ceilings import Ceiling
from hsmd.daemon.worker.key_index import private_keys_by_id
from hsmd.daemon.worker.key_objects import prove_pair, public_keys
from hsmd.daemon.worker.signatures import FaultySignature
from hsmd.errors import BadRequest, Conflict
from hsmd.pkcs11 import templates
from hsmd.pkcs11.public_keys import PublicHalf, private_fits, read_public_half
from hsmd.purposes import KeyUse, Purpose, check_ceiling, labels, use_of


def adopt(
    session: Any,
    private: Any,
    certified: PublicHalf | None,
    purposes: frozenset[Purpose],
    *,
    accept_unsafe: bool,
) -> tuple[Ceiling, list[str]]:
    """Give a private key a ceiling, or find the one it has; returns it and the key's unsafe attributes.

    `certified` is the public half from a certificate. Raises BadRequest, Conflict, TokenFailure, PKCS11Error.
    """
    cka_id: bytes = private[Attribute.ID]
    half = public_half_of(session, private, certified)
    unsafe = templates.unsafe_attributes(private)
    existing = ceilings.read_all(session).get(half.digest)
    if existing is not None:
        return _same_ceiling(existing, purposes), unsafe
    if not purposes:
        raise BadRequest(
            "purposes: the key has no purposes yet; give what it may be used for, for example tls-server"
        )
    check_ceiling(half.key_type, purposes)
    _check_capability(private, purposes)
    if unsafe and not accept_unsafe:
        raise BadRequest(f"accept_unsafe: the key is {', '.join(unsafe)}; generate a new one, or accept that")
    _check_alone(session, cka_id, half)
    try:
        prove_pair(private, half)
    except FaultySignature:
        raise BadRequest("certificate: it is for another key, or the token's public key object is") from None
    return ceilings.write(session, half, cka_id, purposes), unsafe


def find_private(session: Any, *, cka_id: bytes, cka_label: str, digest: bytes) -> Any:
    """The one private key with this CKA_ID, CKA_LABEL or digest (exactly one is given).

    Raises BadRequest if there is none, or more than one.
    """
    everything = [key for keys in private_keys_by_id(session).values() for key in keys]
    if cka_id:
        found = [key for key in everything if key[Attribute.ID] == cka_id]
    elif cka_label:
        found = [key for key in everything if key[Attribute.LABEL] == cka_label]
    else:
        found = [key for key in everything if _has_digest(session, key, digest)]
    if not found:
        raise BadRequest(
            "the token has no such private key; `hsmd key candidates` lists those that can be adopted"
        )
    if len(found) > 1:
        raise BadRequest(f"{len(found)} private keys fit; name the key by a CKA_ID that only one has")
    return found[0]


def public_half_of(session: Any, private: Any, certified: PublicHalf | None) -> PublicHalf:
    """The public half of a private key: shown by itself, by its public object, or given by a certificate.

    Raises BadRequest if there is none that hsmd serves, or if the certificate is for another key.
    """
    shown = shown_half(session, private)
    if shown is not None and certified is not None and shown.digest != certified.digest:
        raise BadRequest("certificate: it is for another key")
    half = shown or certified
    if half is None:
        raise BadRequest(
            "certificate: the token does not show the public key, or its type is not served; give a certificate"
        )
    if not private_fits(private, half):
        raise BadRequest("certificate: it is for another type of key")
    return half


def shown_half(session: Any, private: Any) -> PublicHalf | None:
    """The public half of a private key as the token shows it, or None."""
    half = read_public_half(private)
    if half is not None:
        return half
    for public in public_keys(session, private[Attribute.ID]):
        half = read_public_half(public)
        if half is not None and private_fits(private, half):
            return half
    return None


def _has_digest(session: Any, private: Any, digest: bytes) -> bool:
    half = shown_half(session, private)
    return half is not None and half.digest == digest


def _same_ceiling(existing: Ceiling, purposes: frozenset[Purpose]) -> Ceiling:
    if purposes and purposes != existing.purposes:
        fixed = ", ".join(labels(existing.purposes))
        raise Conflict(f"purposes: the key's purposes were fixed as {fixed}; omit them, or use another key")
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


def _check_alone(session: Any, cka_id: bytes, half: PublicHalf) -> None:
    """Refuse a key that shares CKA_ID and type with another: they could not be told apart later."""
    fitting = [key for key in private_keys_by_id(session).get(cka_id, []) if private_fits(key, half)]
    if len(fitting) != 1:
        raise BadRequest(
            f"cka_id: {len(fitting)} private keys of this type share it; give the key a CKA_ID of its own"
        )
