"""The files of a key that a TLS server loads: key reference and certificate chain."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from hsmd.cli.base.files import PUBLIC
from hsmd.errors import NotFound, ProtocolError
from hsmd.protocol.messages import CertificateExport, KeyInfo, KeyShow
from hsmd.system import atomic_file

if TYPE_CHECKING:
    from hsmd.client import Client


@dataclass(frozen=True, slots=True)
class Exported:
    """The files of one key; `chain` is None if no certificate is stored."""

    name: str
    reference: Path
    chain: Path | None


def export_key(source: Client, name: str, directory: Path, *, timeout_s: float) -> Exported:
    """Fetch key `name` and its chain, and write NAME.key (reference) and NAME.pem (chain) to `directory`.

    Raises HsmdError. If digest, public key and certificate do not match: ProtocolError, and nothing is written.
    """
    from hsmd.client.keyref import KeyReference, encode

    info: KeyInfo = source.control(KeyShow(name), timeout_s=timeout_s)
    if hashlib.sha256(info.public_key).hexdigest() != info.digest or info.name != name:
        raise ProtocolError(f"the public key received for {name} does not match its digest")
    chain = _chain(source, info, timeout_s)
    reference = directory / f"{name}.key"
    chain_file = directory / f"{name}.pem" if chain else None
    if chain_file is not None:
        atomic_file.replace(chain_file, chain, PUBLIC)
    atomic_file.replace(reference, encode(KeyReference(name, info.public_key)), PUBLIC)
    return Exported(name, reference, chain_file)


def _chain(source: Client, key: KeyInfo, timeout_s: float) -> str:
    try:
        pem: str = source.control(CertificateExport(key.name), timeout_s=timeout_s).pem
        leaf = x509.load_pem_x509_certificates(pem.encode())[0]
    except NotFound:
        return ""
    except (ValueError, IndexError):
        raise ProtocolError(f"the chain received for {key.name} is not a PEM certificate") from None
    if leaf.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo) != key.public_key:
        raise ProtocolError(f"the chain received is not for the key {key.name}")
    return pem
