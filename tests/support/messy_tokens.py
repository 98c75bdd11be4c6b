"""Objects in a token as other programs leave them: scripts for `in_token`, and certificates of their keys."""

from __future__ import annotations

import datetime as dt
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, load_der_public_key
from cryptography.x509.oid import NameOID

from hsmd.algorithms import SignatureScheme
from hsmd.daemon.ipc.worker_messages import Candidate, Candidates
from hsmd.purposes import Purpose
from tests.support.tls_bytes import CERTIFICATE_VERIFY
from tests.support.tokens import RawWorker

OBJECTS = """
from pkcs11.util.ec import encode_ec_public_key
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicNumbers
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
P256 = bytes.fromhex("06082a8648ce3d030107")
SAFE = {A.SENSITIVE: True, A.EXTRACTABLE: False, A.MODIFIABLE: False, A.DERIVE: False}

def ec_pair(label, cka_id, public=None, **private):
    domain = session.create_domain_parameters(K.EC, {A.EC_PARAMS: P256}, local=True)
    template = {**SAFE, A.ID: cka_id, **{getattr(A, name): value for name, value in private.items()}}
    return domain.generate_keypair(label=label, store=True, capabilities=F.SIGN | F.VERIFY, mechanism=M.EC_KEY_PAIR_GEN,
                                   private_template=template, public_template={A.ID: cka_id, **(public or {})})

def rsa_pair(label, cka_id, **private):
    template = {**SAFE, A.ID: cka_id, **{getattr(A, name): value for name, value in private.items()}}
    return session.generate_keypair(K.RSA, 2048, label=label, store=True, capabilities=F.SIGN | F.VERIFY,
                                    private_template=template, public_template={A.ID: cka_id})

def foreign_public_key(cka_id, label="foreign"):
    # The public key of a pair that is not in the token.
    public, private = ec_pair(label, cka_id)
    private.destroy()
    return public

def certificate_object(cka_id, der, label="certificate"):
    return session.create_object({A.CLASS: C.CERTIFICATE, A.CERTIFICATE_TYPE: pkcs11.CertificateType.X_509, A.TOKEN: True,
                                  A.PRIVATE: False, A.ID: cka_id, A.LABEL: label, A.SUBJECT: b"", A.VALUE: der})

def spki(public):
    if public.key_type is K.EC:
        return encode_ec_public_key(public).hex()
    numbers = [int.from_bytes(public[each], "big") for each in (A.PUBLIC_EXPONENT, A.MODULUS)]
    return RSAPublicNumbers(*numbers).public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo).hex()
"""
"""Functions that make objects, for the beginning of a script."""


def certificate_for(spki: str | Any) -> x509.Certificate:
    """A certificate of a public key, which is given as SubjectPublicKeyInfo in hex or as an object."""
    public_key = load_der_public_key(bytes.fromhex(spki)) if isinstance(spki, str) else spki
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test")])
    now = dt.datetime.now(dt.UTC)
    builder = x509.CertificateBuilder(name, name, public_key, 1, now, now + dt.timedelta(days=1))
    return builder.sign(ec.generate_private_key(ec.SECP256R1()), SHA256())


def certificate_pem(spki: str | Any) -> str:
    """The same in PEM."""
    return certificate_for(spki).public_bytes(Encoding.PEM).decode()


def candidates(control: RawWorker, *, served: bool = False) -> list[Candidate]:
    """All pages of the private keys that are not served; with `served` also the others."""
    page = control.control(Candidates(served=served))
    found: list[Candidate] = page.keys
    while page.cursor:
        page = control.control(Candidates(cursor=page.cursor, served=served))
        found += page.keys
    return found


def handshake_signature(worker: RawWorker, key: str, scheme: int = SignatureScheme.ECDSA_SHA256) -> bytes:
    """A signature for a TLS 1.3 handshake by the key with this digest in hex."""
    return worker.use(Purpose.TLS13_SERVER, scheme, bytes.fromhex(key), CERTIFICATE_VERIFY)
