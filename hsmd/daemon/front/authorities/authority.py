"""An authority as the store has it, ready to build what its key signs."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from hsmd.algorithms import SignatureScheme
from hsmd.daemon import pki
from hsmd.daemon.front.access.identity import Identity
from hsmd.daemon.front.signing.daemon_signing import sign_as_daemon
from hsmd.daemon.front.signing.service import KeyService
from hsmd.daemon.pki.authority import Issuer, Term
from hsmd.daemon.pki.names import subject
from hsmd.daemon.store import AuthorityRecord, KeyRecord, Transaction
from hsmd.errors import Conflict
from hsmd.purposes import AuthorityConstraints, Purpose
from hsmd.purposes.common_names import common_name_of

BACKDATED = timedelta(hours=1)
"""How long before the present a certificate begins, at most: clocks of peers may be behind."""
BACKDATED_SHARE = 12
"""... and at most this part of its term."""


@dataclass(frozen=True, slots=True)
class Authority:
    """One authority. `chain` are its own certificate and those above it; empty while another authority has to issue it."""

    key: KeyRecord
    record: AuthorityRecord
    constraints: AuthorityConstraints
    chain: tuple[x509.Certificate, ...]

    @classmethod
    def read(cls, tx: Transaction, name: str) -> Authority:
        """The authority whose key has this name. Raises NotFound."""
        record = tx.authorities.get(name)
        stored = tx.certificates.of([name])
        chain = tuple(x509.load_pem_x509_certificates(stored[0].chain_pem.encode())) if stored else ()
        return cls(tx.keys.get(name), record, AuthorityConstraints.parse(record.constraints), chain)

    @property
    def scheme(self) -> SignatureScheme:
        """What it signs with."""
        return pki.default_scheme(self.key.key_type)

    @property
    def name(self) -> x509.Name:
        """Its own name."""
        return name_of(self.constraints)

    @property
    def issuer(self) -> Issuer:
        """It as issuer, with the key identifier of its certificate. Raises Conflict if it has none."""
        own = self._own()
        try:
            identifier = own.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value.digest
        except x509.ExtensionNotFound:
            return Issuer.of_key(self.name, self.key.public_key, self.scheme)
        return Issuer(self.name, self.key.public_key, self.scheme, identifier)

    def term(self, seconds: int, longest_s: int, now: datetime) -> Term:
        """From about now on, for `seconds` (0: as long as it may be), and no longer than its own certificate.

        Raises Conflict if that has ended.
        """
        length = timedelta(seconds=min(seconds or longest_s, longest_s))
        begins = (now - min(BACKDATED, length / BACKDATED_SHARE)).replace(microsecond=0)
        ends = min(begins + length, self._own().not_valid_after_utc)
        if ends <= now:
            raise Conflict(
                f"the certificate of {self.key.name} has ended; renew it: hsmd ca renew {self.key.name}"
            )
        return Term(begins, ends)

    def chain_below(self) -> str:
        """The certificates that follow one that it has issued, in PEM; a root is there only if nothing else is."""
        chain = self.chain
        if len(chain) > 1 and chain[-1].issuer == chain[-1].subject:
            chain = chain[:-1]
        return "".join(pem(certificate) for certificate in chain)

    def _own(self) -> x509.Certificate:
        if not self.chain:
            raise Conflict(
                f"{self.key.name} has no certificate yet; store the one that another authority has issued: "
                f"hsmd ca renew {self.key.name} --chain FILE"
            )
        return self.chain[0]


async def sign(
    service: KeyService, identity: Identity, authority: Authority, data: bytes, deadline: float
) -> bytes:
    """The signature of the authority's key, recorded in the name of `identity`. Raises HsmdError."""
    return await sign_as_daemon(
        service, identity, authority.key, Purpose.X509_AUTHORITY, authority.scheme, data, deadline
    )


def name_of(constraints: AuthorityConstraints) -> x509.Name:
    """The name in a ceiling: a common name. (`x509.Name.from_bytes` is newer than the oldest `cryptography` that is used.)"""
    return subject(common_name_of(constraints.name), "")


def pem(document: x509.Certificate | x509.CertificateRevocationList) -> str:
    """A document in PEM."""
    return document.public_bytes(Encoding.PEM).decode()


def aware_now() -> datetime:
    """The present time."""
    return datetime.now(UTC)
