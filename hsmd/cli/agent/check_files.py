"""Checks of the files a TLS server loads: key reference and certificate chain."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from hsmd.cli.agent.check_results import Finding, bad, good
from hsmd.client.keyref import KeyReference, decode
from hsmd.errors import BadRequest
from hsmd.protocol.messages import KeyInfo

SOON = timedelta(days=14)
"""A certificate that ends sooner is a problem already: there must be time to renew it."""
_REFERENCE = "key reference"
_CERTIFICATE = "certificate"


def check_reference(path: Path, key: KeyInfo | None) -> list[Finding]:
    """The key reference file: it can be read, and is for `key` (as the daemon has it; None if it could not say)."""
    again = "write it again: hsmd agent export NAME"
    try:
        reference = decode(path.read_text(encoding="ascii", errors="replace"))
    except OSError as error:
        return [bad(_REFERENCE, f"{path}: {error.strerror}", again)]
    except BadRequest as error:
        return [bad(_REFERENCE, f"{path}: {error.text}", again)]
    return [_compare(path, reference, key)]


def _compare(path: Path, reference: KeyReference, key: KeyInfo | None) -> Finding:
    if key is None:
        return good(_REFERENCE, f"{path} is sound and names {reference.name}")
    if reference.digest.hex() != key.digest:
        return bad(_REFERENCE, f"{path} is for another key", f"write it again: hsmd agent export {key.name}")
    return good(_REFERENCE, f"{path} is sound and is the daemon's key {key.name}")


def check_certificate(path: Path, key: KeyInfo | None, now: datetime) -> list[Finding]:
    """The chain: its leaf can be read, is for `key`, and is valid now and for a while."""
    try:
        leaf = x509.load_pem_x509_certificates(path.read_bytes())[0]
    except OSError as error:
        return [bad(_CERTIFICATE, f"{path}: {error.strerror}", "write it again: hsmd agent export NAME")]
    except (ValueError, IndexError):
        return [
            bad(_CERTIFICATE, f"{path} holds no PEM certificate", "write it again: hsmd agent export NAME")
        ]
    findings = [_term(path, leaf, now)]
    if key is not None:
        findings.insert(0, _belongs(path, leaf, key))
    return findings


def _belongs(path: Path, leaf: x509.Certificate, key: KeyInfo) -> Finding:
    public = leaf.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    if public != key.public_key:
        mend = f"store the right one (hsmd cert import {key.name} CHAIN), then: hsmd agent export {key.name}"
        return bad(_CERTIFICATE, f"{path} is not for the key {key.name}", mend)
    return good(_CERTIFICATE, f"{path} is for the key {key.name}")


def _term(path: Path, leaf: x509.Certificate, now: datetime) -> Finding:
    begin, end = leaf.not_valid_before_utc, leaf.not_valid_after_utc
    renew = "get a new one: hsmd key csr NAME, hsmd cert import NAME CHAIN, hsmd agent export NAME, then reload the server"
    if now < begin:
        return bad(
            _CERTIFICATE, f"{path} is valid from {begin:%Y-%m-%d %H:%M}Z only", "check this host's clock"
        )
    if now >= end:
        return bad(_CERTIFICATE, f"{path} has ended on {end:%Y-%m-%d %H:%M}Z", renew)
    if now + SOON >= end:
        return bad(_CERTIFICATE, f"{path} ends on {end:%Y-%m-%d %H:%M}Z", renew)
    return good(_CERTIFICATE, f"{path} is valid until {end.astimezone(UTC):%Y-%m-%d}")
