"""Generating, importing and destroying key pairs in the token.

A new pair is served only once its ceiling is stored beside it. The caller chooses from closed sets (key type, purposes) and
gives a checked name; attributes come only from `templates`.
"""

from __future__ import annotations

import hashlib
import os
from typing import Any

from pkcs11 import Attribute, MechanismFlag, ObjectClass

from hsmd.algorithms import Family, KeyType
from hsmd.daemon.worker import ceilings, private_keys, reserves
from hsmd.daemon.worker.ceilings import Ceiling
from hsmd.daemon.worker.key_pairs import KeyPairs, prove_pair
from hsmd.errors import Conflict, TokenFailure
from hsmd.pkcs11 import templates
from hsmd.pkcs11.mechanisms import KIND_OF_FAMILY, generation
from hsmd.pkcs11.public_keys import (
    CURVE_OIDS,
    ED25519_PARAMS,
    PublicHalf,
    public_attributes,
    read_public_half,
)
from hsmd.purposes import Purpose, check_ceiling
from hsmd.purposes.ceiling_constraints import NO_CONSTRAINTS, ConstraintDocuments, check_constraints

CKA_ID_BYTES = 16


def generate(
    session: Any,
    name: str,
    key_type: KeyType,
    purposes: frozenset[Purpose],
    constraints: ConstraintDocuments = NO_CONSTRAINTS,
) -> Ceiling:
    """Generate a key pair that never leaves the token. Raises BadRequest, TokenFailure, PKCS11Error."""
    check_ceiling(key_type, purposes)
    check_constraints(purposes, constraints)
    cka_id = os.urandom(CKA_ID_BYTES)
    public, private = _generate_pair(session, name, key_type, purposes, cka_id)
    try:
        half = generated_half(public, key_type)
        prove_pair(private, half)
        return ceilings.write(session, half, cka_id, purposes, constraints)
    except BaseException:
        private.destroy()
        public.destroy()
        raise


def generate_reserve(
    session: Any,
    name: str,
    key_type: KeyType,
    purposes: frozenset[Purpose],
    constraints: ConstraintDocuments,
) -> Ceiling:
    """Generate a pair that is not served until it is adopted, at most for these constraints.

    Returns what describes it; its ceiling is written when it is adopted. Raises as `generate`.
    """
    check_ceiling(key_type, purposes)
    check_constraints(purposes, constraints)
    limits = reserves.limits_of(purposes, constraints)
    cka_id = os.urandom(CKA_ID_BYTES)
    public, private = _generate_pair(session, name, key_type, purposes, cka_id)
    try:
        half = generated_half(public, key_type)
        prove_pair(private, half)
        return reserves.write(session, half, cka_id, limits).as_ceiling
    except BaseException:
        private.destroy()
        public.destroy()
        raise


def generate_temporary(session: Any, key_type: KeyType) -> tuple[Any, Any]:
    """A pair of session objects (public, private) whose private key signs and can be wrapped once. Raises PKCS11Error."""
    return _call_generation(
        session,
        key_type,
        store=False,
        capabilities=MechanismFlag.SIGN | MechanismFlag.VERIFY,
        private_template=templates.extractable_private_key(),
    )


def generated_half(public: Any, key_type: KeyType) -> PublicHalf:
    """The public half of a pair that was generated. Raises TokenFailure if it is not of the type."""
    half = read_public_half(public)
    if half is None or half.key_type is not key_type:
        raise TokenFailure(detail="the token generated another type of key than requested")
    return half


def _generate_pair(
    session: Any, name: str, key_type: KeyType, purposes: frozenset[Purpose], cka_id: bytes
) -> tuple[Any, Any]:
    return _call_generation(
        session,
        key_type,
        id=cka_id,
        label=name,
        store=True,
        capabilities=templates.capabilities(purposes),
        public_template=templates.public_key(purposes),
        private_template=templates.private_key(purposes),
    )


def _call_generation(session: Any, key_type: KeyType, **arguments: Any) -> tuple[Any, Any]:
    facts = key_type.facts
    arguments["mechanism"] = generation(key_type)
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
    """Store a key pair in the token. Raises BadRequest, Conflict, TokenFailure, PKCS11Error."""
    check_ceiling(half.key_type, purposes)
    if ceilings.of_key(session, half.digest) is not None:
        raise Conflict(
            "this key is in the token already and keeps its purposes; `hsmd key list` or `hsmd key candidates` shows it"
        )
    cka_id = hashlib.sha256(half.spki).digest()[:CKA_ID_BYTES]
    private = session.create_object(
        {
            **templates.named(ObjectClass.PRIVATE_KEY, cka_id, name),
            **templates.private_key(purposes),
            **templates.checked(private_attributes),
        }
    )
    try:
        prove_pair(private, half)
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
    template = {
        **templates.named(ObjectClass.PUBLIC_KEY, cka_id, name),
        **templates.public_key(purposes),
        **public_attributes(half),
    }
    return session.create_object(templates.checked(template))


def public_keys(session: Any, cka_id: bytes) -> list[Any]:
    """The public key objects with this CKA_ID."""
    template = {Attribute.CLASS: ObjectClass.PUBLIC_KEY, Attribute.TOKEN: True, Attribute.ID: cka_id}
    return list(session.get_objects(templates.checked(template)))


def destroy(session: Any, digest: bytes) -> bool:
    """Destroy private key, public key, and ceiling or mark of a reserve, in this order; return whether one was there.

    Calling it again completes a destruction that was interrupted. Raises Conflict if it cannot tell which private key is
    meant: without what limits it, that key could be adopted for something else. Raises PKCS11Error.
    """
    ceiling = ceilings.of_key(session, digest)
    reserve = reserves.of_key(session, digest)
    known = ceiling or (reserve.as_ceiling if reserve is not None else None)
    objects = list(ceilings.objects_of(session, digest))
    if ceiling is None and objects:
        raise Conflict(
            "the token has a ceiling for this key that this release cannot read, or two that differ; destroy the key "
            "with the release that wrote it, or with the token's own tools"
        )
    if known is None:
        return False
    _destroy_pair(session, known)
    for data_object in objects:
        data_object.destroy()
    return bool(reserves.remove(session, digest) or objects)


def _destroy_pair(session: Any, ceiling: Ceiling) -> None:
    """Destroy both halves; an earlier call may have done a part. Raises Conflict, PKCS11Error."""
    found = KeyPairs().private_key(ceiling, private_keys.with_id(session, ceiling.cka_id))
    if found.private is None and found.shared:
        raise Conflict(f"the key cannot be told from others, so nothing was destroyed: {found.problem}")
    if found.private is not None:
        found.private.destroy()
    for public in public_keys(session, ceiling.cka_id):
        half = read_public_half(public)
        if half is not None and half.digest == ceiling.half.digest:
            public.destroy()
