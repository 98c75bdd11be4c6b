"""Checks of the files that a TLS server loads: key reference and certificate chain."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from hsmd.cli.agent.check_results import Finding, bad, good, warning
from hsmd.client.keyref import KeyReference, decode
from hsmd.errors import BadRequest
from hsmd.protocol.messages import KeyInfo
from hsmd.system.input_files import read_file

SOON = timedelta(days=14)
"""A certificate that expires sooner is reported as a problem, while there is time to renew it."""
PART_OF_TERM = 5
"""One of short term is in the last fifth of it, as for the daemon: it would be a problem from its first day on."""
MAX_FILE_BYTES = 1 << 20
_REFERENCE = "key reference"
_CERTIFICATE = "certificate"


def check_reference(path: Path, name: str, key: KeyInfo | None) -> list[Finding]:
    """Check that the reference to key `name` is valid and refers to `key`, the daemon's description of it; None if unknown."""
    again = f"write it again: hsmd agent export {name}"
    try:
        reference = decode(read_file(path, MAX_FILE_BYTES).decode("ascii", "replace"))
    except OSError as error:
        return [bad(_REFERENCE, f"{path}: {error.strerror}", again)]
    except BadRequest as error:
        return [bad(_REFERENCE, f"{path}: {error.text}", again)]
    return [_compare(path, reference, key)]


def _compare(path: Path, reference: KeyReference, key: KeyInfo | None) -> Finding:
    if key is None:
        return good(_REFERENCE, f"{path} is valid and refers to {reference.name}")
    if reference.digest.hex() != key.digest:
        return bad(_REFERENCE, f"{path} is for another key", f"write it again: hsmd agent export {key.name}")
    return good(_REFERENCE, f"{path} is valid and refers to the daemon's key {key.name}")


def check_certificate(path: Path, name: str, key: KeyInfo | None, now: datetime) -> list[Finding]:
    """Check that the leaf of key `name` is valid now, does not expire soon, and is for `key` unless that is None."""
    again = f"write it again: hsmd agent export {name}"
    try:
        leaf = x509.load_pem_x509_certificates(read_file(path, MAX_FILE_BYTES))[0]
    except OSError as error:
        return [bad(_CERTIFICATE, f"{path}: {error.strerror}", again)]
    except (ValueError, IndexError, x509.InvalidVersion):
        return [bad(_CERTIFICATE, f"{path} contains no PEM certificate", again)]
    findings = [_term(path, name, leaf, now)]
    if key is not None:
        findings.insert(0, _belongs(path, leaf, key))
    return findings


def check_current(path: Path, name: str, pem: str, now: datetime) -> list[Finding]:
    """Check that the exported chain is the one that the agent has now, `pem`; empty if either is unknown."""
    try:
        exported = x509.load_pem_x509_certificates(read_file(path, MAX_FILE_BYTES))
        current = x509.load_pem_x509_certificates(pem.encode())
    except (OSError, ValueError, x509.InvalidVersion):
        return []
    if exported == current:
        return [good(_CERTIFICATE, f"{path} is the chain that the daemon holds")]
    end = current[0].not_valid_after_utc
    if now >= end:
        text = f"the daemon's chain, another one than {path}, expired on {end:%Y-%m-%d %H:%M}Z"
        return [bad(_CERTIFICATE, text, _renew(name))]
    until = f"{end:%Y-%m-%d}"
    fix = f"run: hsmd agent export {name}, then reload the server"
    return [warning(_CERTIFICATE, f"the daemon holds another chain than {path}, valid until {until}", fix)]


def _belongs(path: Path, leaf: x509.Certificate, key: KeyInfo) -> Finding:
    public = leaf.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    if public != key.public_key:
        fix = f"store the right one (hsmd cert import {key.name} CHAIN), then: hsmd agent export {key.name}"
        return bad(_CERTIFICATE, f"{path} is not for the key {key.name}", fix)
    return good(_CERTIFICATE, f"{path} is for the key {key.name}")


def _term(path: Path, name: str, leaf: x509.Certificate, now: datetime) -> Finding:
    begin, end = leaf.not_valid_before_utc, leaf.not_valid_after_utc
    if now < begin:
        return bad(
            _CERTIFICATE,
            f"{path} is not valid before {begin:%Y-%m-%d %H:%M}Z",
            "check the clock of this host",
        )
    if now >= end:
        return bad(_CERTIFICATE, f"{path} expired on {end:%Y-%m-%d %H:%M}Z", _renew(name))
    if end - now <= min(SOON, (end - begin) / PART_OF_TERM):
        return warning(_CERTIFICATE, f"{path} expires on {end:%Y-%m-%d %H:%M}Z", _renew(name))
    return good(_CERTIFICATE, f"{path} is valid until {end.astimezone(UTC):%Y-%m-%d}")


def _renew(name: str) -> str:
    return f"renew it, as an operator: hsmd key csr {name}, hsmd cert import {name} CHAIN"
