"""Checks of the certificate chain that is to be stored for a key."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from ssl import DER_cert_to_PEM_cert

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, padding, rsa
from cryptography.hazmat.primitives.asymmetric.types import PublicKeyTypes
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, PublicKeyAlgorithmOID

from hsmd.anchors.certificates import UNREADABLE
from hsmd.daemon.pki.chain_documents import documents_in, parsed
from hsmd.daemon.pki.distinguished_names import normalised, same_name, shown
from hsmd.errors import BadRequest
from hsmd.purposes import Purpose

SERVING = frozenset({Purpose.TLS13_SERVER, Purpose.TLS12_SERVER, Purpose.TLS12_RSA_PREMASTER})
CONNECTING = frozenset({Purpose.TLS13_CLIENT, Purpose.TLS12_CLIENT})
FEWEST_RSA_BITS = 2048
"""OpenSSL's security level 2, and so Debian, refuses shorter keys in a chain."""
_NAMED = 5
"""Names, or faults, that a message lists."""

_USES = (
    (SERVING, ExtendedKeyUsageOID.SERVER_AUTH, "TLS servers (serverAuth)"),
    (CONNECTING, ExtendedKeyUsageOID.CLIENT_AUTH, "TLS clients (clientAuth)"),
)


@dataclass(frozen=True, slots=True)
class CertificateFacts:
    """When the leaf begins and ends (aware UTC), the chain in normalised PEM, and what is wrong with it.

    With a chain that has `faults` handshakes fail; `warnings` are for the operator to know.
    """

    not_after: datetime
    chain_pem: str
    warnings: tuple[str, ...]
    not_before: datetime
    faults: tuple[str, ...] = ()

    def refuse_faults(self, forced: str) -> None:
        """Raise BadRequest if the chain has faults; `forced` is the command that stores it nevertheless."""
        if self.faults:
            more = len(self.faults) - _NAMED
            text = "; ".join(self.faults[:_NAMED]) + (f"; and {more} more" if more > 0 else "")
            raise BadRequest(f"chain: {text}. To store it nevertheless: {forced}")


def check_chain(
    chain_pem: str,
    public_key: PublicKeyTypes,
    now: datetime | None = None,
    *,
    purposes: Collection[Purpose] = SERVING,
    previous: str = "",
) -> CertificateFacts:
    """Check that a chain is the certificate of this key, and that TLS peers which trust its root accept it.

    The certificate of the key comes first, each issuer behind the certificate that it issued; the root may be left out.
    Whether peers trust the root is not checked. `purposes` are those of the key, `previous` is the chain that is stored for
    the key now, and `now` (aware) defaults to the present time. cryptography's own verifier is for names of peers and the
    profile of public CAs: it refuses chains of private ones that TLS libraries accept, and does not say what is wrong.
    Raises BadRequest, with the next step, for what is no chain, or not of this key.
    """
    documents = documents_in(chain_pem)
    chain = [parsed(position, document) for position, document in enumerate(documents, 1)]
    _check_different(chain, documents)
    _check_leaf(chain, public_key)
    at = now or datetime.now(UTC)
    faults = [*_faults(chain, at, purposes), *_older_than(chain, previous)]
    warnings = [*_warnings(chain, at), *_missing_names(chain[0], previous)]
    clean = "".join(map(DER_cert_to_PEM_cert, documents))
    leaf = chain[0]
    return CertificateFacts(
        leaf.not_valid_after_utc, clean, tuple(warnings), leaf.not_valid_before_utc, tuple(faults)
    )


def check_authority_chain(chain_pem: str, public_key: PublicKeyTypes, now: datetime) -> CertificateFacts:
    """Check that a chain begins with a certificate that makes this key an authority. Raises BadRequest as `check_chain`."""
    facts = check_chain(chain_pem, public_key, now, purposes=())
    leaf = x509.load_pem_x509_certificates(facts.chain_pem.encode())[0]
    constraints, usage = _value(leaf, x509.BasicConstraints), _value(leaf, x509.KeyUsage)
    if not isinstance(constraints, x509.BasicConstraints) or not constraints.ca:
        raise BadRequest(
            "chain: the certificate of the key is not one of an authority (CA:true); ask for another one"
        )
    if isinstance(usage, x509.KeyUsage) and not (usage.key_cert_sign and usage.crl_sign):
        raise BadRequest(
            "chain: the key usage in the certificate allows no certificates, or no revocation lists"
        )
    if x509_faults := tuple(fault for fault in facts.faults if not fault.startswith("the leaf")):
        raise BadRequest(f"chain: {'; '.join(x509_faults)}")
    return facts


def is_valid_and_of_a_ca(chain_pem: str, now: datetime) -> bool:
    """Whether the first certificate of a stored chain was issued by another key than its own, and has not ended."""
    leaf = _stored_leaf(chain_pem)
    return leaf is not None and now <= leaf.not_valid_after_utc and not is_self_signed(leaf)


def refuse_pss(certificate_pem: str) -> None:
    """Raise BadRequest if the first certificate is for an RSA-PSS key, which TLS servers cannot use with hsmd."""
    try:
        certificates = x509.load_pem_x509_certificates(certificate_pem.encode())
    except (ValueError, x509.InvalidVersion):
        return  # the worker says what is wrong with it
    if certificates and certificates[0].public_key_algorithm_oid == PublicKeyAlgorithmOID.RSASSA_PSS:
        raise BadRequest(f"certificate: {_PSS}")


_PSS = (
    "it is for an RSA-PSS key (id-RSASSA-PSS), with which TLS servers do not work with hsmd; use a certificate for an "
    "rsaEncryption key"
)


def _check_different(chain: Sequence[x509.Certificate], documents: Sequence[bytes]) -> None:
    for position, document in enumerate(documents):
        first = documents.index(document)
        if first != position:
            raise BadRequest(
                f"chain: certificates {first + 1} and {position + 1} ({shown(chain[first].subject)}) are the same,"
                " so one is there twice; remove one"
            )


def _check_leaf(chain: Sequence[x509.Certificate], public_key: PublicKeyTypes) -> None:
    ours = [_is_for(certificate, public_key) for certificate in chain]
    if ours[0]:
        return
    if any(ours):
        raise BadRequest(
            f"chain: the certificate of the key is {_named(chain, ours.index(True) + 1)} and not the first; put the leaf"
            " first, then its issuers"
        )
    if chain[0].public_key_algorithm_oid == PublicKeyAlgorithmOID.RSASSA_PSS:
        raise BadRequest(f"chain: it contains no certificate of this key: of the first, {_PSS}")
    raise BadRequest(
        f"chain: it contains no certificate of this key, the first is {shown(chain[0].subject)}; create a request with"
        " `hsmd key csr` and have it signed"
    )


def _is_for(certificate: x509.Certificate, public_key: PublicKeyTypes) -> bool:
    try:
        return _spki(certificate.public_key()) == _spki(public_key)
    except (ValueError, UnsupportedAlgorithm):
        return False


def _faults(chain: Sequence[x509.Certificate], now: datetime, purposes: Collection[Purpose]) -> Iterator[str]:
    """What makes TLS peers refuse the chain, in the words of RFC 5280, sections 4.2.1 and 6.1."""
    root = _root_at_the_end(chain)
    for position, certificate in enumerate(chain, 1):
        if not root or position < len(chain):  # peers use their own copy of the root
            yield from _term_faults(certificate, _named(chain, position), now)
    for position in range(1, len(chain)):
        yield from _issuing_faults(chain, position)
    yield from _incomplete(chain)
    for position, issuer in enumerate(chain[1:], 2):
        yield from _issuer_faults(issuer, _named(chain, position), position - 2)
    for position, certificate in enumerate(chain if not root else chain[:-1], 1):
        yield from _weakness(certificate, _named(chain, position))
        yield from _use_faults(certificate, _named(chain, position), purposes)
    yield from _leaf_faults(chain[0], self_signed=is_self_signed(chain[0]))


def _incomplete(chain: Sequence[x509.Certificate]) -> Iterator[str]:
    """A leaf alone: peers that know only roots cannot find its issuer."""
    if len(chain) == 1 and not is_self_signed(chain[0]):
        issuer = shown(chain[0].issuer)
        yield (
            f"behind {_named(chain, 1)} the certificate of its issuer {issuer} is missing: append it (CAs offer it as"
            " intermediate, chain or bundle; append a root of your own, too)"
        )


def _root_at_the_end(chain: Sequence[x509.Certificate]) -> bool:
    return len(chain) > 1 and is_self_signed(chain[-1])


def is_self_signed(certificate: x509.Certificate) -> bool:
    """Whether a certificate has its own name as issuer, and a signature of its own key."""
    return is_issued_by(certificate, certificate)


def is_issued_by(certificate: x509.Certificate, issuer: x509.Certificate) -> bool:
    """Whether a certificate has this issuer's name, and a signature of its key."""
    if not same_name(certificate.issuer, issuer.subject):
        return False
    try:
        _verify(certificate, issuer.public_key())
    except (ValueError, TypeError, InvalidSignature, UnsupportedAlgorithm):
        return False
    return True


def _term_faults(certificate: x509.Certificate, name: str, now: datetime) -> Iterator[str]:
    if now > certificate.not_valid_after_utc:
        yield f"{name} expired on {certificate.not_valid_after_utc:%Y-%m-%d}"
    if now < certificate.not_valid_before_utc:
        yield f"{name} is not valid before {certificate.not_valid_before_utc:%Y-%m-%d %H:%M} UTC"


def _issuing_faults(chain: Sequence[x509.Certificate], position: int) -> Iterator[str]:
    """Why the certificate at `position`, counted from 1, was not issued by the one behind it."""
    issued, issuer = chain[position - 1], chain[position]
    fault = f"certificate {position + 1} did not issue certificate {position}"
    if not same_name(issued.issuer, issuer.subject):
        yield (
            f"{fault}, which names {shown(issued.issuer)} as its issuer and not {shown(issuer.subject)};"
            f" {_right_order(chain, position)}"
        )
        return
    if _weak_hash(issued) is not None:
        return  # said by `_weakness`; the library verifies no such signature
    try:
        _verify(issued, issuer.public_key())
    except UnsupportedAlgorithm:
        yield (
            f"{_named(chain, position)} is signed with an algorithm that hsmd does not know"
            f" ({issued.signature_algorithm_oid.dotted_string}); use another issuer"
        )
    except (ValueError, TypeError, InvalidSignature):
        yield (
            f"{fault}: its name {shown(issuer.subject)} is right, but the signature is not by its key; give the CA's"
            " present certificate, or issue the leaf anew"
        )


def _issuer_faults(issuer: x509.Certificate, name: str, below: int) -> Iterator[str]:
    """What makes peers refuse an issuer with `below` intermediate certificates under it (RFC 5280, section 6.1.4)."""
    constraints = _value(issuer, x509.BasicConstraints)
    if not isinstance(constraints, x509.BasicConstraints) or not constraints.ca:
        yield f"{name} is not a CA certificate, so TLS peers refuse what it issued"
        return
    if constraints.path_length is not None and below > constraints.path_length:
        yield f"{name} allows {constraints.path_length} CA certificates below it, and has {below}"
    usage = _value(issuer, x509.KeyUsage)
    if isinstance(usage, x509.KeyUsage) and not usage.key_cert_sign:
        yield f"{name} may not sign certificates, according to its key usage"


def _weakness(certificate: x509.Certificate, name: str) -> Iterator[str]:
    if (weak := _weak_hash(certificate)) is not None:
        yield f"{name} is signed with {weak}, which TLS peers refuse; have it issued anew with SHA-256"
    try:
        public_key = certificate.public_key()
    except (ValueError, UnsupportedAlgorithm):
        return
    if isinstance(public_key, rsa.RSAPublicKey) and public_key.key_size < FEWEST_RSA_BITS:
        yield f"{name} is for an RSA key of {public_key.key_size} bits, which TLS peers refuse"


def _use_faults(certificate: x509.Certificate, name: str, purposes: Collection[Purpose]) -> Iterator[str]:
    """An extended key usage limits what a certificate, and what a CA has issued, is for (RFC 5280, section 4.2.1.12)."""
    usage = _value(certificate, x509.ExtendedKeyUsage)
    if not isinstance(usage, x509.ExtendedKeyUsage) or ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE in usage:
        return
    wanted = [(oid, words) for of, oid, words in _USES if not of.isdisjoint(purposes)]
    if wanted and not any(oid in usage for oid, _ in wanted):
        words = " or ".join(words for _, words in wanted)
        yield f"{name} is not for {words}, according to its extended key usage"


def _leaf_faults(leaf: x509.Certificate, *, self_signed: bool) -> Iterator[str]:
    constraints = _value(leaf, x509.BasicConstraints)
    if isinstance(constraints, x509.BasicConstraints) and constraints.ca and not self_signed:
        yield "the leaf is a CA certificate"
    usage = _value(leaf, x509.KeyUsage)
    if isinstance(usage, x509.KeyUsage) and not (usage.digital_signature or usage.key_encipherment):
        yield "the leaf's key usage does not allow TLS handshakes"


def _older_than(chain: Sequence[x509.Certificate], previous: str) -> Iterator[str]:
    """A certificate that was issued before the one that is stored: most likely the wrong file."""
    stored, leaf = _stored_leaf(previous), chain[0]
    if stored is None or stored == leaf or is_self_signed(stored):
        return
    if leaf.not_valid_before_utc < stored.not_valid_before_utc:
        yield (
            f"certificate 1 is older than the one that is stored: it begins on {leaf.not_valid_before_utc:%Y-%m-%d %H:%M}"
            f" UTC, the stored one on {stored.not_valid_before_utc:%Y-%m-%d %H:%M} UTC"
        )


def _missing_names(leaf: x509.Certificate, previous: str) -> Iterator[str]:
    stored = _stored_leaf(previous)
    missing = sorted(_names_of(stored) - _names_of(leaf)) if stored is not None else []
    if missing:
        more = f" and {len(missing) - _NAMED} more" if len(missing) > _NAMED else ""
        yield f"the certificate before was also for {', '.join(missing[:_NAMED])}{more}"


def _stored_leaf(chain_pem: str) -> x509.Certificate | None:
    try:
        stored = x509.load_pem_x509_certificate(chain_pem.encode())
        _ = stored.extensions, stored.subject, stored.issuer
    except UNREADABLE:
        return None  # none is stored, or one that a release before could read
    return stored


def _names_of(certificate: x509.Certificate) -> set[str]:
    names = _value(certificate, x509.SubjectAlternativeName)
    return {str(name.value) for name in names} if isinstance(names, x509.SubjectAlternativeName) else set()


def _right_order(chain: Sequence[x509.Certificate], position: int) -> str:
    wanted = normalised(chain[position - 1].issuer)
    for other, certificate in enumerate(chain, 1):
        if other != position and normalised(certificate.subject) == wanted:
            return f"that is certificate {other}: put each issuer behind the certificate that it issued"
    return "put the leaf first, and each issuer behind the certificate that it issued"


def _weak_hash(certificate: x509.Certificate) -> str | None:
    """The name of a hash that clients refuse in signatures of certificates, if this one is signed with it."""
    try:
        found = certificate.signature_hash_algorithm
    except UnsupportedAlgorithm:
        return _OLD_SIGNATURES.get(certificate.signature_algorithm_oid.dotted_string)
    return None if found is None else _WEAK_HASHES.get(found.name)


_WEAK_HASHES = {"sha1": "SHA-1", "md5": "MD5"}
_OLD_SIGNATURES = {"1.2.840.113549.1.1.2": "MD2", "1.2.840.113549.1.1.4": "MD5"}


def _verify(issued: x509.Certificate, public_key: PublicKeyTypes) -> None:
    """Raises InvalidSignature, ValueError, TypeError or UnsupportedAlgorithm unless the key signed the certificate."""
    parameters = issued.signature_algorithm_parameters
    signature, document, digest = (
        issued.signature,
        issued.tbs_certificate_bytes,
        issued.signature_hash_algorithm,
    )
    if isinstance(public_key, rsa.RSAPublicKey) and digest is not None:
        if not isinstance(parameters, padding.PKCS1v15 | padding.PSS):
            raise TypeError
        public_key.verify(signature, document, parameters, digest)
    elif isinstance(public_key, ec.EllipticCurvePublicKey):
        if not isinstance(parameters, ec.ECDSA):
            raise TypeError
        public_key.verify(signature, document, parameters)
    elif isinstance(public_key, ed25519.Ed25519PublicKey | ed448.Ed448PublicKey) and digest is None:
        public_key.verify(signature, document)
    else:
        raise TypeError


def _named(chain: Sequence[x509.Certificate], position: int) -> str:
    return f"certificate {position} ({shown(chain[position - 1].subject)})"


def _warnings(chain: Sequence[x509.Certificate], now: datetime) -> Iterator[str]:
    leaf = chain[0]
    ending = [
        at
        for at, issuer in enumerate(chain[1:], 2)
        if now <= issuer.not_valid_after_utc < leaf.not_valid_after_utc
    ]
    if ending:
        yield f"an issuer's certificate ends before the leaf's: {_named(chain, ending[0])}"
    if len(chain) > 2 and _root_at_the_end(chain):
        yield f"the chain contains the root, which clients have already; remove {_named(chain, len(chain))}"
    if _value(leaf, x509.SubjectAlternativeName) is None:
        yield "the leaf has no subject alternative name, and clients ignore the common name"
    constraints = _value(leaf, x509.BasicConstraints)
    if isinstance(constraints, x509.BasicConstraints) and constraints.ca and is_self_signed(leaf):
        yield "the leaf is a CA certificate"


def _value(certificate: x509.Certificate, kind: type[x509.ExtensionType]) -> x509.ExtensionType | None:
    try:
        return certificate.extensions.get_extension_for_class(kind).value
    except x509.ExtensionNotFound:
        return None


def _spki(public_key: PublicKeyTypes) -> bytes:
    return public_key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
