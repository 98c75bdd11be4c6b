"""The two corpora: bytes that OpenSSL and GnuTLS sign pass, bytes that a TLS key must not sign never pass."""

from __future__ import annotations

import base64
import json
import re
from collections import Counter
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, padding

from hsmd.algorithms import SCHEMES, KeyType, Padding, SignatureScheme, schemes_for
from hsmd.errors import MAX_ERROR_TEXT_BYTES, PurposeMismatch
from hsmd.purposes import TLS_SIGNING, Purpose, PurposeCheck, purpose_from_label

VECTORS = Path(__file__).resolve().parents[2] / "vectors" / "purposes"
VALID = json.loads((VECTORS / "valid.json").read_text())
HOSTILE = json.loads((VECTORS / "hostile.json").read_text())
DISGUISED = json.loads((VECTORS / "disguised.json").read_text())
SPKI = {name: base64.b64decode(spki) for name, spki in VALID["keys"].items()}
CHECKS = {name: PurposeCheck(KeyType(name), spki) for name, spki in SPKI.items()}
RECORDS = [(r, purpose_from_label(r["purpose"]), base64.b64decode(r["data"])) for r in VALID["records"]]
HASHES = {"sha256": hashes.SHA256(), "sha384": hashes.SHA384(), "sha512": hashes.SHA512()}


def refused(key: str, purpose: int, scheme: int, data: bytes) -> str:
    """The text of the refusal."""
    with pytest.raises(PurposeMismatch) as caught:
        CHECKS[key].check(purpose, scheme, data)
    assert len(caught.value.text.encode()) <= MAX_ERROR_TEXT_BYTES
    return caught.value.text


def verify(spki: bytes, scheme: SignatureScheme, signature: bytes, data: bytes) -> None:
    key, facts = serialization.load_der_public_key(spki), SCHEMES[scheme]
    if scheme is SignatureScheme.ED25519:
        key.verify(signature, data)
        return
    algorithm = HASHES[facts.hash]
    if facts.padding is Padding.PSS:
        key.verify(signature, data, padding.PSS(padding.MGF1(algorithm), facts.hash_bytes), algorithm)
    elif facts.padding is Padding.PKCS1:
        key.verify(signature, data, padding.PKCS1v15(), algorithm)
    else:
        key.verify(signature, data, ec.ECDSA(algorithm))


def test_the_signatures_in_the_corpus_verify():
    for record, _, data in RECORDS:
        if record["signature"]:
            signature = base64.b64decode(record["signature"])
            verify(SPKI[record["key"]], SignatureScheme(record["scheme"]), signature, data)


def test_the_valid_forms_cover_every_scheme_and_both_libraries():
    sources = Counter((record["source"][:6], purpose) for record, purpose, _ in RECORDS)
    assert all(sources[library, purpose] for library in ("openss", "gnutls") for purpose in TLS_SIGNING)
    for purpose in (
        Purpose.TLS12_SERVER,
        Purpose.TLS12_CLIENT,
        Purpose.X509_REQUEST,
        Purpose.X509_SELF_SIGNED,
    ):
        made = {(record["key"], record["scheme"]) for record, of, _ in RECORDS if of is purpose}
        assert made == {(key, scheme) for key in SPKI for scheme in schemes_for(KeyType(key))}
    for purpose in (Purpose.TLS13_SERVER, Purpose.TLS13_CLIENT):
        sizes = {(record["scheme"], len(data)) for record, of, data in RECORDS if of is purpose}
        schemes = {0x0804, 0x0805, 0x0806, 0x0403, 0x0503, 0x0603, 0x0807}
        assert sizes == {(scheme, size) for scheme in schemes for size in (130, 146)}


def test_every_valid_form_passes():
    for record, purpose, data in RECORDS:
        CHECKS[record["key"]].check(purpose, record["scheme"], data)


def test_every_valid_form_passes_under_its_own_bound_purpose_only():
    bound = [*TLS_SIGNING, Purpose.X509_REQUEST, Purpose.X509_SELF_SIGNED]
    for record, purpose, data in RECORDS:
        for other in bound:
            if other is not purpose:
                for scheme in schemes_for(KeyType(record["key"])):
                    refused(record["key"], other, scheme, data)


def test_forms_that_name_a_key_pass_for_that_key_only():
    for record, purpose, data in RECORDS:
        if purpose in (Purpose.TLS12_CLIENT, Purpose.X509_REQUEST, Purpose.X509_SELF_SIGNED):
            for key in set(SPKI) - {record["key"]}:
                for scheme in schemes_for(KeyType(key)):
                    refused(key, purpose, scheme, data)


def test_forms_that_name_a_scheme_pass_for_that_scheme_only():
    for record, purpose, data in RECORDS:
        if purpose is Purpose.X509_SELF_SIGNED or (
            purpose is Purpose.TLS12_CLIENT and record["source"] == "openssl"
        ):
            for scheme in set(schemes_for(KeyType(record["key"]))) - {record["scheme"]}:
                refused(record["key"], purpose, scheme, data)


def test_no_hostile_payload_passes_under_any_tls_purpose():
    assert len({payload["name"] for payload in HOSTILE}) == len(HOSTILE) >= 200
    for payload in HOSTILE:
        data = base64.b64decode(payload["data"])
        assert payload["keys"]
        for key in payload["keys"]:
            for scheme in schemes_for(KeyType(key)):
                for purpose in TLS_SIGNING:
                    refused(key, purpose, scheme, data)


def test_what_independent_readers_accepted_is_refused():
    """Bytes in a form of TLS 1.2, each with a signature that a reader of another format accepted (make_disguised.py)."""
    assert len(DISGUISED["records"]) >= 30
    for record in DISGUISED["records"]:
        key, data = record["key"], base64.b64decode(record["data"])
        spki, signature = base64.b64decode(DISGUISED["keys"][key]), base64.b64decode(record["signature"])
        verify(spki, SignatureScheme(record["scheme"]), signature, data)
        check = PurposeCheck(KeyType(key), spki)
        for purpose in TLS_SIGNING:
            for scheme in schemes_for(KeyType(key)):
                with pytest.raises(PurposeMismatch) as caught:
                    check.check(purpose, scheme, data)
                if purpose is purpose_from_label(record["purpose"]) and scheme == record["scheme"]:
                    assert re.search("another signed format|ASN.1 structure", caught.value.text), record[
                        "name"
                    ]


@pytest.mark.parametrize(
    ("pattern", "purpose", "reason"),
    [
        (r"disguised: (CMS|TBS|indefinite)", Purpose.TLS12_SERVER, "it reads as an ASN.1 structure"),
        (r"disguised: SSHSIG", Purpose.TLS12_SERVER, "another signed format: an SSH signature"),
        (r"marked: COSE", Purpose.TLS12_SERVER, "another signed format: COSE"),
        (r"marked: SSH ", Purpose.TLS12_SERVER, "another signed format: an SSH"),
        (r"marked: OpenPGP version", Purpose.TLS12_SERVER, "another signed format: OpenPGP$"),
        (r"marked: OpenPGP key", Purpose.TLS12_SERVER, "another signed format: an OpenPGP key signature"),
        (
            r"marked: (PASETO|DSSE|MLS|TPM|Apple|signed data|SCT|signed tree|IKE)",
            Purpose.TLS12_SERVER,
            "another signed format",
        ),
        (r"marked: JWS", Purpose.TLS12_SERVER, "another signed format: JWS"),
        (r"accepted: (JWT|JWS)", Purpose.TLS12_SERVER, "another signed format: JWS"),
        (r"accepted: DNSSEC", Purpose.TLS12_SERVER, "another signed format: DNSSEC"),
        (r"accepted: WebAuthn", Purpose.TLS12_SERVER, "another signed format: WebAuthn"),
        (r"accepted: OpenPGP", Purpose.TLS12_SERVER, "another signed format: OpenPGP$"),
        (r"accepted: (CMS|cert)", Purpose.TLS12_SERVER, "it reads as an ASN.1 structure"),
        (r"texts: (?!SPDM)", Purpose.TLS12_SERVER, "the randoms are text|another signed format"),
        (r"tls12 server .*randoms of spaces", Purpose.TLS12_SERVER, "another signed format"),
        (r"tls12 server .*small order", Purpose.TLS12_SERVER, "small order"),
        (r"tls12 server .*last bit of", Purpose.TLS12_SERVER, "not on the curve"),
        (r"tls12 server .*x too large", Purpose.TLS12_SERVER, "outside the field"),
        (r"tls12 server .*(hybrid|infinity, zero|compressed, zero)", Purpose.TLS12_SERVER, "uncompressed"),
        (r"tls12 server .*(explicit|curve type)", Purpose.TLS12_SERVER, "not named_curve"),
        (r"tls12 server, named curve (?!31$)", Purpose.TLS12_SERVER, "unknown named curve"),
        (
            r"tls12 server .*, (one byte more|signature algorithm behind)",
            Purpose.TLS12_SERVER,
            "bytes follow the point",
        ),
        (r"tls12 server .*one byte short", Purpose.TLS12_SERVER, "cut off"),
        (r"tls_relatives: (delegated credential|context)", Purpose.TLS13_SERVER, "context string"),
        (r"tls13 .*byte hash", Purpose.TLS13_SERVER, "hash|context"),
        (r"tls12 client, .* byte behind$", Purpose.TLS12_CLIENT, "where none may follow"),
        (r"transcript with the certificate of", Purpose.TLS12_CLIENT, "not of this key"),
        (r"tls12 client, .*chose TLS 1.3", Purpose.TLS12_CLIENT, "another TLS version"),
        (r"tls12 client, request for SHA-1", Purpose.TLS12_CLIENT, "did not offer"),
        (r"tls12 client, without message type 13", Purpose.TLS12_CLIENT, "no CertificateRequest"),
    ],
)
def test_hostile_payloads_fail_for_the_intended_reason(pattern, purpose, reason):
    found = [payload for payload in HOSTILE if re.search(pattern, payload["name"])]
    assert found
    for payload in found:
        scheme = 0x0403
        text = refused("p-256", purpose, scheme, base64.b64decode(payload["data"]))
        assert re.search(reason, text), payload["name"]
