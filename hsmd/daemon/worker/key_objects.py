"""Making, adopting, importing and destroying keys in the token.

All of them end with a ceiling beside the key; until it is there the key is not served. The caller chooses from closed sets
(key type, purposes) and gives a checked name; attributes come from `templates` alone.
"""

from __future__ import annotations

import hashlib
import os
from typing import Any

from pkcs11 import Attribute, ObjectClass

from hsmd.algorithms import Family, KeyType, schemes_for
from hsmd.daemon.worker import ceilings
from hsmd.daemon.worker.ceilings import Ceiling
from hsmd.daemon.worker.key_index import private_keys_by_id, the_private_key
from hsmd.daemon.worker.operations import signing_operation
from hsmd.daemon.worker.signatures import FaultySignature
from hsmd.errors import BadRequest, Conflict, TokenFailure
from hsmd.pkcs11 import templates
from hsmd.pkcs11.mechanisms import KIND_OF_FAMILY, generation
from hsmd.pkcs11.public_keys import (
    CURVE_OIDS,
    ED25519_PARAMS,
    PublicHalf,
    private_fits,
    public_attributes,
    read_public_half,
)
from hsmd.purposes import Purpose, check_ceiling, labels

CKA_ID_BYTES = 16


def generate(session: Any, name: str, key_type: KeyType, purposes: frozenset[Purpose]) -> Ceiling:
    """Generate a key pair that never leaves the token. Raises BadRequest, TokenFailure, PKCS11Error."""
    check_ceiling(key_type, purposes)
    cka_id = os.urandom(CKA_ID_BYTES)
    public, private = _generate_pair(session, name, key_type, purposes, cka_id)
    try:
        half = read_public_half(public)
        if half is None or half.key_type is not key_type:
            raise TokenFailure(detail="the token generated another kind of key than asked for")
        _prove_pair(private, half)
        return ceilings.write(session, half, cka_id, purposes)
    except BaseException:
        private.destroy()
        public.destroy()
        raise


def _generate_pair(
    session: Any, name: str, key_type: KeyType, purposes: frozenset[Purpose], cka_id: bytes
) -> tuple[Any, Any]:
    facts = key_type.facts
    arguments: dict[str, Any] = {
        "id": cka_id,
        "label": name,
        "store": True,
        "mechanism": generation(key_type),
        "capabilities": templates.capabilities(purposes),
        "public_template": templates.public_key(),
        "private_template": templates.private_key(purposes),
    }
    kind = KIND_OF_FAMILY[facts.family]
    if facts.family is Family.RSA:
        pair: tuple[Any, Any] = session.generate_keypair(kind, facts.bits, **arguments)
        return pair
    params = CURVE_OIDS[facts.curve] if facts.family is Family.EC else ED25519_PARAMS
    domain = session.create_domain_parameters(kind, {Attribute.EC_PARAMS: params}, local=True)
    pair = domain.generate_keypair(**arguments)
    return pair


def import_pair(
    session: Any,
    name: str,
    half: PublicHalf,
    private_attributes: templates.Template,
    purposes: frozenset[Purpose],
) -> Ceiling:
    """Put a key pair into the token. Raises BadRequest, Conflict, TokenFailure, PKCS11Error."""
    check_ceiling(half.key_type, purposes)
    if half.digest in ceilings.read_all(session):
        raise Conflict("this key is in the token already; it keeps the ceiling it has")
    cka_id = hashlib.sha256(half.spki).digest()[:CKA_ID_BYTES]
    private = session.create_object(
        {
            **templates.named(ObjectClass.PRIVATE_KEY, cka_id, name),
            **templates.private_key(purposes),
            **templates.checked(private_attributes),
        }
    )
    try:
        _prove_pair(private, half)
        public = write_public_key(session, name, half, cka_id, purposes)
    except BaseException:
        private.destroy()
        raise
    try:
        return ceilings.write(session, half, cka_id, purposes)
    except BaseException:
        private.destroy()
        public.destroy()
        raise


def write_public_key(
    session: Any, name: str, half: PublicHalf, cka_id: bytes, purposes: frozenset[Purpose]
) -> Any:
    """Store the public key object beside a private one."""
    decrypting = templates.decrypts(purposes)
    template = {
        **templates.named(ObjectClass.PUBLIC_KEY, cka_id, name),
        **templates.public_key(),
        Attribute.VERIFY: not decrypting,
        Attribute.ENCRYPT: decrypting,
        **public_attributes(half),
    }
    return session.create_object(templates.checked(template))


def _prove_pair(private: Any, half: PublicHalf) -> None:
    """Raises TokenFailure unless the private key belongs to the public one.

    RSA keys show their modulus; others sign something that is a digest of nothing anybody could use.
    """
    if not private_fits(private, half):
        raise TokenFailure("the private key does not belong to the public key")
    if half.key_type.facts.family is Family.RSA:
        return
    scheme = schemes_for(half.key_type)[0]
    challenge = hashlib.sha512(b"hsmd: do private and public key belong together?" + os.urandom(32)).digest()
    prove = signing_operation(private, half, scheme, hashed=True, verify="all")
    prove.run(challenge[: scheme.facts.hash_bytes or len(challenge)])


# --- adopting ---


def adopt(
    session: Any,
    private: Any,
    certified: PublicHalf | None,
    purposes: frozenset[Purpose],
    *,
    accept_unsafe: bool,
) -> tuple[Ceiling, list[str]]:
    """Give an existing private key a ceiling, or find the one it has; returns it with what is unsafe about the key.

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
            "purposes: the key has no ceiling yet; name what it may be used for, for example tls-server"
        )
    check_ceiling(half.key_type, purposes)
    _check_capability(private, purposes)
    if unsafe and not accept_unsafe:
        raise BadRequest(f"accept_unsafe: the key is {', '.join(unsafe)}; generate a new one, or accept that")
    _check_alone(session, cka_id, half)
    try:
        _prove_pair(private, half)
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
    """The public half as far as the token shows one."""
    half = read_public_half(private)
    if half is not None:
        return half
    for public in public_keys(session, private[Attribute.ID]):
        half = read_public_half(public)
        if half is not None and private_fits(private, half):
            return half
    return None


def public_keys(session: Any, cka_id: bytes) -> list[Any]:
    """The public key objects with this CKA_ID."""
    template = {Attribute.CLASS: ObjectClass.PUBLIC_KEY, Attribute.TOKEN: True, Attribute.ID: cka_id}
    return list(session.get_objects(templates.checked(template)))


def _has_digest(session: Any, private: Any, digest: bytes) -> bool:
    half = shown_half(session, private)
    return half is not None and half.digest == digest


def _same_ceiling(existing: Ceiling, purposes: frozenset[Purpose]) -> Ceiling:
    if purposes and purposes != existing.purposes:
        fixed = ", ".join(labels(existing.purposes))
        raise Conflict(
            f"purposes: the key's ceiling was fixed as {fixed}; leave purposes out, or use another key"
        )
    return existing


def _check_capability(private: Any, purposes: frozenset[Purpose]) -> None:
    needed = Attribute.DECRYPT if templates.decrypts(purposes) else Attribute.SIGN
    if not templates.may(private, needed):
        raise BadRequest(f"purposes: the token does not let this key {needed.name.lower()}")


def _check_alone(session: Any, cka_id: bytes, half: PublicHalf) -> None:
    """A key that shares CKA_ID and type with another could not be told from it later."""
    fitting = [key for key in private_keys_by_id(session).get(cka_id, []) if private_fits(key, half)]
    if len(fitting) != 1:
        raise BadRequest(
            f"cka_id: {len(fitting)} private keys of this type share it; give the key a CKA_ID of its own"
        )


# --- destroying ---


def destroy(session: Any, digest: bytes) -> bool:
    """Destroy private key, public key and ceiling, in this order; whether anything was there. Raises PKCS11Error.

    A destruction that broke off is finished by asking again.
    """
    ceiling = ceilings.read_all(session).get(digest)
    changed = False
    if ceiling is not None:
        private = the_private_key(private_keys_by_id(session).get(ceiling.cka_id, []), ceiling)
        if private is not None:
            private.destroy()
        for public in public_keys(session, ceiling.cka_id):
            half = read_public_half(public)
            if half is not None and half.digest == digest:
                public.destroy()
    for data_object in ceilings.objects_of(session, digest):
        data_object.destroy()
        changed = True
    return changed
