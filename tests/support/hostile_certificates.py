"""What a front that is taken over might ask an authority's key to sign, and what the key may sign.

All of it is well-formed, and built by `cryptography`. The authority certifies `example.com` and below without
`secret.example.com`, the network 192.0.2.0/24, mailboxes of example.com and the common name `alice`, for 90 days.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address, ip_network
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.types import CertificatePublicKeyTypes
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_der_public_key
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from hsmd.algorithms import SignatureScheme
from hsmd.daemon.pki import Unsigned, authority, certificate_request
from hsmd.daemon.pki.certificates import key_usage
from hsmd.purposes import AuthorityConstraints, NameSet

DAY = timedelta(days=1)
NEXT_KEY = ec.generate_private_key(ec.SECP256R1())
LEAF_KEY = ec.generate_private_key(ec.SECP256R1())
OTHER_KEY = ec.generate_private_key(ec.SECP256R1())


def spki_of(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def named(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)] if text else [])


NAME = named("Example authority 1")
NO_NAME = named("")


def constraints(**changes: Any) -> AuthorityConstraints:
    """Those of the authority."""
    members: dict[str, Any] = {
        "name": NAME,
        "profiles": ["server", "client"],
        "permitted": NameSet.of("permitted", ["example.com"], ["192.0.2.0/24"], ["example.com"]),
        "excluded": NameSet.of("excluded", ["secret.example.com"]),
        "common_names": ["alice"],
        "path_length": 1,
        "leaf_s": 90 * 86_400,
        "authority_s": 3_650 * 86_400,
        "next_key": hashlib.sha256(spki_of(NEXT_KEY)).hexdigest(),
        "next_elsewhere": "next_key" not in changes,
    }
    return AuthorityConstraints.of(**(members | changes))


class Asked:
    """Bytes for one authority's key."""

    def __init__(self, spki: bytes, scheme: SignatureScheme, now: datetime | None = None) -> None:
        self.spki, self.scheme = spki, scheme
        self.now = (now or datetime.now(UTC)).replace(microsecond=0)
        self.issuer = authority.Issuer.of_key(NAME, spki, scheme)
        self.constraints = constraints()

    def term(self, days: float) -> authority.Term:
        return authority.Term(self.now, self.now + timedelta(days=days))

    # --- what it may sign ---

    def root(self, *, path_length: int = 1, days: float = 3_000, **changes: Any) -> bytes:
        members = {"constraints": self.constraints, "next_key": self.constraints.next_key} | changes
        return authority.authority_certificate(
            self.issuer, members["constraints"], members.get("subject", NAME), members.get("spki", self.spki),
            self.term(days), authority.random_serial(), path_length=path_length, next_key=members["next_key"],
        ).to_be_signed  # fmt: skip

    def link(self, key: ec.EllipticCurvePrivateKey = NEXT_KEY, **changes: Any) -> bytes:
        members = {"subject": named("Example authority 2"), "path_length": 0, "next_key": ""} | changes
        return self.root(spki=spki_of(key), **members)

    def leaf(
        self,
        profile: str = "server",
        subject: str = "",
        dns: Sequence[str] = ("www.example.com",),
        addresses: Sequence[str] = (),
        email: Sequence[str] = (),
        days: float = 80,
        **changes: Any,
    ) -> bytes:
        names: list[x509.GeneralName] = [x509.DNSName(name) for name in dns]
        names += [x509.IPAddress(ip_address(text)) for text in addresses]
        names += [x509.RFC822Name(text) for text in email]
        return authority.leaf_certificate(
            changes.get("issuer", self.issuer), profile, changes.get("name", named(subject)), names,
            changes.get("spki", spki_of(LEAF_KEY)), changes.get("term", self.term(days)), authority.random_serial(),
            lists_at=["http://ca.example.com/1.crl"], decrypts=changes.get("decrypts", False),
        ).to_be_signed  # fmt: skip

    def revocations(self, days: float = 7, issuer: authority.Issuer | None = None, number: int = 7) -> bytes:
        revoked = [
            authority.Revoked(authority.random_serial(), self.now, reason) for reason in authority.REASONS
        ]
        return authority.revocation_list(
            issuer or self.issuer, number, self.now, self.now + timedelta(days=days), revoked
        ).to_be_signed

    def request(self, name: str = "Example authority 1", spki: bytes = b"") -> bytes:
        return certificate_request(spki or self.spki, self.scheme, name).to_be_signed

    def honest(self) -> dict[str, bytes]:
        return {
            "its own certificate": self.root(),
            "one that links the next key": self.link(),
            "a server": self.leaf(subject="www.example.com"),
            "a wildcard": self.leaf(dns=["*.shop.example.com", "example.com"]),
            "an address": self.leaf(dns=[], addresses=["192.0.2.9"], subject="192.0.2.9"),
            "RSA key exchange": self.leaf(decrypts=True),
            "a client with a name": self.leaf("client", "alice", []),
            "a client with a mailbox": self.leaf("client", dns=[], email=["a@example.com"]),
            "a revocation list": self.revocations(),
            "an empty list": authority.revocation_list(
                self.issuer, 1, self.now, self.now + DAY, []
            ).to_be_signed,
            "a request": self.request(),
        }

    # --- what it may not sign ---

    def made(
        self,
        *extensions: tuple[x509.ExtensionType, bool],
        subject: x509.Name = NO_NAME,
        spki: bytes = b"",
        without: tuple[type[x509.ExtensionType], ...] = (),
        days: float = 80,
    ) -> bytes:
        """A server's certificate with extensions added, replaced (of the same type) or left out."""
        public_key: CertificatePublicKeyTypes = load_der_public_key(spki or spki_of(LEAF_KEY))  # type: ignore[assignment]
        usual: list[tuple[x509.ExtensionType, bool]] = [
            (x509.SubjectAlternativeName([x509.DNSName("www.example.com")]), not subject.rdns),
            (x509.BasicConstraints(ca=False, path_length=None), True),
            (key_usage(digital_signature=True), True),
            (x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), False),
            (x509.SubjectKeyIdentifier.from_public_key(public_key), False),
            (x509.AuthorityKeyIdentifier(self.issuer.key_id, None, None), False),
        ]
        replaced = {type(value) for value, _ in extensions} | set(without)
        builder = x509.CertificateBuilder(
            NAME, subject, public_key, authority.random_serial(),
            self.now.replace(tzinfo=None), (self.now + timedelta(days=days)).replace(tzinfo=None),
        )  # fmt: skip
        for value, critical in [*(each for each in usual if type(each[0]) not in replaced), *extensions]:
            builder = builder.add_extension(value, critical)
        return Unsigned(builder, self.spki, self.scheme).to_be_signed

    def hostile(self) -> Iterator[tuple[str, bytes]]:
        """Each with what is wrong about it."""
        unknown = x509.UnrecognizedExtension(x509.ObjectIdentifier("1.3.6.1.4.1.32473.1"), b"\x05\x00")
        yield "CA:true for a leaf", self.made((x509.BasicConstraints(ca=True, path_length=None), True))
        yield "CA:true with a path length", self.made((x509.BasicConstraints(ca=True, path_length=0), True))
        yield "CA:true, not critical", self.made((x509.BasicConstraints(ca=True, path_length=0), False))
        yield "an authority's certificate for a leaf's key", self.link(LEAF_KEY)
        yield "a link for a key without commitment", self.link(OTHER_KEY)
        yield "a link with the name of this authority", self.link(subject=NAME)
        for text in ("EXAMPLE authority 1", " Example  authority 1 ", "\uff25xample authority 1"):
            yield f"a link that is self-issued for some verifiers: {text!a}", self.link(subject=named(text))
        yield "a link with its name in another kind of string", self.link(subject=printable(NAME))
        yield (
            "a link whose subject is an organization, too",
            self.link(
                subject=x509.Name(
                    [x509.NameAttribute(NameOID.ORGANIZATION_NAME, "Bank"), *named("Example authority 2")]
                )
            ),
        )
        yield "a link without a name", self.link(subject=named(""))
        yield "a link for more than ten years", self.link(days=3_700)
        yield "a link with the path length of this authority", self.link(path_length=1)
        wide = constraints(permitted=NameSet.of("permitted", ["*"]), excluded=NameSet())
        yield "a link with other name constraints", self.link(constraints=wide)
        yield "its own certificate with a longer path", self.root(path_length=2)
        yield "its own certificate with another name", self.root(subject=named("Another"))
        yield "its own certificate with another next key", self.root(next_key="00" * 32)
        yield "its own certificate without a next key", self.root(next_key="")
        yield "its own certificate for twenty years", self.root(days=7_300)
        yield "its own certificate with wider names", self.root(constraints=wide)
        yield "its own key as a server's", self.leaf(spki=self.spki)
        yield "foreign names", self.leaf(dns=["www.example.net"])
        yield "a foreign name among good ones", self.leaf(dns=["www.example.com", "evil.example"])
        yield "a name that ends like a good one", self.leaf(dns=["evilexample.com"])
        yield "an excluded name", self.leaf(dns=["a.secret.example.com"])
        yield "the wildcard of an excluded name", self.leaf(dns=["*.secret.example.com"])
        yield "a wildcard over an excluded name", self.leaf(dns=["*.example.com"])
        yield "a name in capitals", self.leaf(dns=["WWW.example.com"])
        yield "a name that hides another", self.leaf(dns=["www.example.net\0.example.com"])
        yield "a foreign address", self.leaf(addresses=["198.51.100.1"])
        yield "an address of a kind without networks", self.leaf(addresses=["::1"])
        yield "a foreign mailbox", self.leaf("client", dns=[], email=["a@example.net"])
        yield "a foreign common name", self.leaf(subject="www.example.net")
        yield "a common name that is not in the list", self.leaf("client", "postgres", [])
        yield (
            "an organization",
            self.leaf(name=x509.Name([x509.NameAttribute(NameOID.ORGANIZATION_NAME, "Example")])),
        )
        yield "two common names", self.leaf(name=x509.Name([*named("www.example.com"), *named("alice")]))
        yield "no name at all", self.leaf("client", "", [])
        yield "a server without a host", self.leaf("server", "alice", [])
        yield (
            "a URI",
            self.made(
                (
                    x509.SubjectAlternativeName([x509.UniformResourceIdentifier("spiffe://example.com/a")]),
                    True,
                )
            ),
        )
        for text in ("::ffff:192.0.2.9", "::192.0.2.9", "64:ff9b::c000:209"):
            yield f"an address of IPv4 in one of IPv6: {text}", self.leaf(addresses=[text])
        yield "101 names", self.leaf(dns=[f"a{number}.example.com" for number in range(101)])
        empty = x509.UnrecognizedExtension(x509.ObjectIdentifier("2.5.29.17"), b"\x30\x00")
        client = (x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH]), False)
        yield (
            "an empty list of names",
            self.made((empty, True), client, without=(x509.SubjectAlternativeName,)),
        )
        url = [x509.UniformResourceIdentifier("http://ca.example.com/1.crl")]
        issuer = [x509.DirectoryName(named("Other"))]
        reasons = frozenset([x509.ReasonFlags.key_compromise])
        relative = x509.RelativeDistinguishedName(named("a"))
        for what, point in {
            "another issuer": x509.DistributionPoint(url, None, None, issuer),
            "some reasons": x509.DistributionPoint(url, None, reasons, None),
            "a relative name": x509.DistributionPoint(None, relative, None, None),
            "a file": x509.DistributionPoint([x509.UniformResourceIdentifier("file:///a")], None, None, None),
            "a directory": x509.DistributionPoint(
                [x509.UniformResourceIdentifier("ldap://a/")], None, None, None
            ),
            "a name": x509.DistributionPoint(issuer, None, None, None),
        }.items():
            yield f"a distribution point with {what}", self.made((x509.CRLDistributionPoints([point]), False))
        for value in (b"\x05\x00\x05\x00", b"\x30\x00", b"\x30\x02\x30\x00"):
            points = x509.UnrecognizedExtension(x509.ObjectIdentifier("2.5.29.31"), value)
            yield f"distribution points {value.hex()}", self.made((points, False))
        yield "ten years", self.leaf(days=3_650)
        yield (
            "a term that begins next year",
            self.leaf(term=authority.Term(self.now + 365 * DAY, self.now + 400 * DAY)),
        )
        yield "a term that ends before it begins", _swapped(self)
        yield (
            "another issuer",
            self.leaf(issuer=authority.Issuer(named("Other"), self.spki, self.scheme, self.issuer.key_id)),
        )
        yield (
            "an issuer with the same text in another form",
            self.leaf(issuer=authority.Issuer(printable(NAME), self.spki, self.scheme, self.issuer.key_id)),
        )
        yield "a profile that is not in the ceiling", self.leaf("server-client")
        yield "code signing", self.made((x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CODE_SIGNING]), False))
        any_use = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE])
        yield "any use", self.made((any_use, False))
        yield "no use", self.made(without=(x509.ExtendedKeyUsage,))
        yield "the usage of an authority", self.made((key_usage(certificates=True), True))
        yield "a usage that is not critical", self.made((key_usage(digital_signature=True), False))
        yield "no key usage", self.made(without=(x509.KeyUsage,))
        yield "no basic constraints", self.made(without=(x509.BasicConstraints,))
        yield "an unknown critical extension", self.made((unknown, True))
        yield "an unknown extension", self.made((unknown, False))
        yield (
            "name constraints in a leaf",
            self.made((x509.NameConstraints([x509.IPAddress(ip_network("192.0.2.0/24"))], None), True)),
        )
        by_serial = x509.AuthorityKeyIdentifier(self.issuer.key_id, [x509.DirectoryName(NAME)], 1)
        yield "an authority key identifier with a serial number", self.made((by_serial, False))
        yield (
            "alternative names that are critical beside a subject",
            self.made(
                (x509.SubjectAlternativeName([x509.DNSName("www.example.com")]), True),
                subject=named("www.example.com"),
            ),
        )
        yield (
            "a revocation list of another issuer",
            self.revocations(
                issuer=authority.Issuer(named("Other"), self.spki, self.scheme, self.issuer.key_id)
            ),
        )
        yield "a revocation list for a year", self.revocations(days=365)
        for number in (0, 1 << 62, 1 << 158, int((self.now + 2 * DAY).timestamp())):
            yield f"a revocation list with the number {number}", self.revocations(number=number)
        negative = self.revocations().replace(_NUMBER_7, _NUMBER_7[:-1] + b"\xff")
        yield "a revocation list with a negative number", negative
        yield "a request for another name", self.request("Another")
        yield "a request for another key", self.request(spki=spki_of(LEAF_KEY))
        yield "text", b"hello"
        yield "TLS 1.3", b" " * 64 + b"TLS 1.3, server CertificateVerify\0" + b"\0" * 32


_NUMBER_7 = bytes.fromhex("0603551d140403020107")
"""CRLNumber, and its value."""


def _swapped(asked: Asked) -> bytes:
    """A certificate whose two dates have changed places; the builder does not make it."""
    data = asked.leaf()
    begins = f"{asked.now:%y%m%d%H%M%SZ}".encode()
    ends = f"{asked.now + 80 * DAY:%y%m%d%H%M%SZ}".encode()
    assert begins + b"\x17\x0d" + ends in data
    return data.replace(begins + b"\x17\x0d" + ends, ends + b"\x17\x0d" + begins)


def printable(name: x509.Name) -> x509.Name:
    return x509.Name(
        [x509.NameAttribute(each.oid, each.value, x509.name._ASN1Type.PrintableString) for each in name]
    )
