"""Issuing, renewing and revoking certificates. A serial number is in the store before the authority signs it."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from hashlib import sha256

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from hsmd.algorithms import key_type_of
from hsmd.anchors.certificates import UNREADABLE
from hsmd.daemon.front.access.identity import Identity
from hsmd.daemon.front.access.snapshot_cache import SnapshotCache
from hsmd.daemon.front.authorities.authority import Authority, aware_now, pem, sign
from hsmd.daemon.front.ledger.producers import replace_certificate
from hsmd.daemon.front.signing.service import KeyService
from hsmd.daemon.pki import Unsigned
from hsmd.daemon.pki.authority import (
    REASONS,
    USES,
    Revoked,
    Term,
    authority_certificate,
    leaf_certificate,
    random_serial,
    revocation_list,
)
from hsmd.daemon.pki.names import alternative_names, subject
from hsmd.daemon.store import IssuedRecord, KeyRecord, Transaction
from hsmd.errors import BadRequest, Conflict, HsmdError, PurposeMismatch
from hsmd.protocol.frames import MAX_DATA_BYTES
from hsmd.protocol.messages import CaIssue
from hsmd.purposes import Purpose
from hsmd.purposes.authority import LONGEST_S
from hsmd.purposes.authority_check import MAX_NAMES
from hsmd.purposes.name_constraints import mailbox
from hsmd.system.client_threads import in_thread

ISSUING = "issuing"
"""The profile of certificates of other authorities."""
UNKNOWN = "unknown"
"""The profile of those that were revoked by their serial number alone."""
_SERIAL = re.compile(r"[1-9a-f][0-9a-f]{0,39}")
_LONGEST = timedelta(seconds=LONGEST_S)
MAX_REVOKED = 1_200
"""Entries of a revocation list, which is one key operation."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is to be certified: a key, and the names that it gets. `of` is the key record, if the daemon serves the key."""

    profile: str
    spki: bytes
    digest: bytes
    subject: x509.Name
    names: tuple[x509.GeneralName, ...]
    decrypts: bool = False
    of: KeyRecord | None = None
    below: Authority | None = None
    """The authority that is certified, with the profile `issuing`."""
    client: str = ""
    """The node that asks for it."""


class Issuing:
    """What an authority certifies and revokes."""

    def __init__(
        self, *, cache: SnapshotCache, service: KeyService, now: Callable[[], datetime] = aware_now
    ) -> None:
        self._cache = cache
        self._service = service
        self._now = now

    async def issue(self, identity: Identity, request: CaIssue, deadline: float) -> tuple[IssuedRecord, str]:
        """A certificate and its chain in PEM. The chain is stored for a key that the daemon serves. Raises HsmdError."""
        if bool(request.key) == bool(request.request):
            raise BadRequest("key: give either the name of a key or a certificate request")
        if request.link and (request.profile != ISSUING or not request.key):
            raise BadRequest("link: it is for the key of another authority, with the profile issuing")
        if request.profile not in (*USES, ISSUING):
            raise BadRequest(f"profile: choose one of {', '.join((*USES, ISSUING))}")
        authority = await self.read(request.authority)
        if request.key:
            wanted = await self._cache.read(lambda tx: _wanted_key(tx, request))
            _check_next_token(authority, wanted)
            wanted = replace(wanted, of=None) if request.link else wanted
        else:
            wanted = await in_thread(_wanted_by_request, request)
        term = authority.term(request.term_s, _longest(authority, wanted.profile), self._now())
        return await self._issue(identity, authority, wanted, term, deadline)

    async def issue_to_node(
        self,
        identity: Identity,
        authority: Authority,
        wanted: Wanted,
        seconds: int,
        admit: Callable[[Transaction], None],
        deadline: float,
    ) -> tuple[IssuedRecord, str]:
        """A certificate for a node, and its chain in PEM.

        `admit` is called in the transaction that notes the certificate, and raises an HsmdError to refuse it. Raises HsmdError.
        """
        term = authority.term(seconds, _longest(authority, wanted.profile), self._now())
        return await self._issue(identity, authority, wanted, term, deadline, admit)

    async def renew(
        self, identity: Identity, authority: Authority, serial: str, seconds: int, deadline: float
    ) -> tuple[IssuedRecord, str]:
        """The same certificate for a new term, of the length of the old one unless `seconds` says another. Raises HsmdError."""
        old = await self._cache.read(lambda tx: tx.issued.get(authority.key.name, serial))
        if not old.certificate:
            raise Conflict("this certificate was not signed; issue it: hsmd ca issue")
        if old.revoked_at is not None:
            raise Conflict("this certificate is revoked; issue another one for a new key: hsmd ca issue")
        wanted = await self._cache.read(lambda tx: _wanted_again(tx, old))
        length = seconds or int((old.not_after - old.not_before).total_seconds())
        term = authority.term(length, _longest(authority, wanted.profile), self._now())
        return await self._issue(identity, authority, wanted, term, deadline)

    async def revoke(
        self,
        identity: Identity,
        authority: Authority,
        serial: str,
        reason: str,
        deadline: float,
        unknown_until: datetime | None = None,
    ) -> tuple[bool, str]:
        """Whether it was not revoked before, and the new revocation list in PEM.

        With `unknown_until`, when it ends at the latest, the certificate need not be one that is known: what a front that was
        taken over issued without a note, or what a restored database has forgotten. Raises HsmdError.
        """
        if reason not in REASONS:
            raise BadRequest(f"reason: choose one of {', '.join(REASONS)}")
        name, now = authority.key.name, self._now().replace(microsecond=0)
        _ = authority.issuer  # before anything is changed
        if unknown_until is not None and not now < unknown_until <= now + _LONGEST:
            raise BadRequest(
                "unknown_until: it is in the past, or too far in the future; give when the certificate ends"
            )

        def change(tx: Transaction) -> bool:
            if unknown_until is not None and not tx.issued.is_known(name, serial):
                tx.issued.begin(_unknown_certificate(name, serial, now, unknown_until))
            return tx.issued.revoke(name, serial, reason, now)

        changed = await self._cache.change_unversioned(change)
        return changed, await self.sign_list(identity, authority, deadline)

    async def sign_list(self, identity: Identity, authority: Authority, deadline: float) -> str:
        """A new revocation list in PEM; certificates that ended before the last one are left out. Raises HsmdError."""
        name, record, now = authority.key.name, authority.record, self._now().replace(microsecond=0)
        issuer, length = authority.issuer, timedelta(seconds=min(record.list_s, authority.constraints.leaf_s))

        def begin(tx: Transaction) -> tuple[int, list[IssuedRecord]]:
            number = tx.authorities.next_list_number(name, now)
            return number, tx.issued.revoked(name, now - length, MAX_REVOKED + 1)

        number, found = await self._cache.change_unversioned(begin)
        revoked = [Revoked(int(each.serial, 16), each.revoked_at or now, each.reason) for each in found]
        unsigned = await in_thread(revocation_list, issuer, number, now, now + length, revoked)
        if len(found) > MAX_REVOKED or len(unsigned.to_be_signed) > MAX_DATA_BYTES:
            raise Conflict(
                f"more than {MAX_REVOKED} certificates of {name} are revoked and have not ended, which is too long for a"
                " revocation list; replace the authority"
            )
        signature = await sign(self._service, identity, authority, unsigned.to_be_signed, deadline)
        signed = await in_thread(unsigned.signed, signature)
        document = signed.public_bytes(Encoding.DER)
        await self._cache.change_unversioned(
            lambda tx: tx.authorities.set_list(name, number, document, now + length)
        )
        return pem(signed)

    async def read(self, name: str) -> Authority:
        """The authority of this name. Raises NotFound."""
        found: Authority = await self._cache.read(lambda tx: Authority.read(tx, name))
        return found

    async def _issue(
        self,
        identity: Identity,
        authority: Authority,
        wanted: Wanted,
        term: Term,
        deadline: float,
        admit: Callable[[Transaction], None] = lambda tx: None,
    ) -> tuple[IssuedRecord, str]:
        serial = random_serial()
        unsigned = await in_thread(_unsigned, authority, wanted, term, serial)
        name = authority.key.name
        record = _record(name, wanted, term, serial)

        def begin(tx: Transaction) -> None:
            admit(tx)
            if tx.issued.is_compromised(name, record.key_digest):
                raise Conflict(
                    "a certificate for this key was revoked because of a compromise; issue one for a new key"
                )
            tx.issued.begin(record)

        await self._cache.change_unversioned(begin)
        try:
            signature = await sign(self._service, identity, authority, unsigned.to_be_signed, deadline)
        except HsmdError as error:
            # This process has no signature, so there is no certificate. A node tries again: notes of what it did not get must
            # not be what keeps it from a certificate.
            if wanted.client or isinstance(error, PurposeMismatch):
                await self._cache.change_unversioned(lambda tx: tx.issued.discard(name, record.serial))
            raise
        signed = await in_thread(unsigned.signed, signature)
        chain = pem(signed) + authority.chain_below()
        document = signed.public_bytes(Encoding.DER)
        finished = await self._finish(record, document, wanted, chain)
        return finished, chain

    async def _finish(
        self, record: IssuedRecord, document: bytes, wanted: Wanted, chain: str
    ) -> IssuedRecord:
        """Store the certificate, and its chain for the key that the daemon serves."""
        now = self._now()

        def finish(tx: Transaction) -> IssuedRecord:
            tx.issued.finish(record.authority, record.serial, document)
            if wanted.of is not None and tx.keys.get(wanted.of.name).digest == wanted.digest:
                replace_certificate(tx, wanted.of, chain, record.not_after, now, record.not_before)
            return tx.issued.get(record.authority, record.serial)

        if wanted.of is None:
            return await self._cache.change_unversioned(finish)
        found: IssuedRecord = await self._cache.change(finish)
        return found


def _unknown_certificate(authority: str, serial: str, now: datetime, ends: datetime) -> IssuedRecord:
    """A note of a certificate of which only the serial number is known. Raises BadRequest."""
    if not _SERIAL.fullmatch(serial):
        raise BadRequest(
            "serial: must be 1 to 40 hexadecimal digits in lower case, without zeros before them, as openssl x509 -serial "
            "prints it"
        )
    return IssuedRecord(
        authority=authority,
        serial=serial,
        profile=UNKNOWN,
        subject="",
        names=(),
        key_digest=b"",
        not_before=now,
        not_after=ends.replace(microsecond=0),
    )


def _longest(authority: Authority, profile: str) -> int:
    constraints = authority.constraints
    return constraints.authority_s if profile == ISSUING else constraints.leaf_s


def _unsigned(authority: Authority, wanted: Wanted, term: Term, serial: int) -> Unsigned[x509.Certificate]:
    if wanted.below is not None:
        below = wanted.below.constraints
        is_next = wanted.digest.hex() == authority.constraints.next_key
        return authority_certificate(
            authority.issuer, authority.constraints, wanted.subject, wanted.spki, term, serial,
            path_length=min(below.path_length, max(authority.constraints.path_length - 1, 0)),
            next_key="" if is_next else below.next_key,
        )  # fmt: skip
    return leaf_certificate(
        authority.issuer, wanted.profile, wanted.subject, wanted.names, wanted.spki, term, serial,
        decrypts=wanted.decrypts, lists_at=authority.record.lists_at,
    )  # fmt: skip


def _record(authority: str, wanted: Wanted, term: Term, serial: int) -> IssuedRecord:
    return IssuedRecord(
        authority=authority,
        serial=f"{serial:x}",
        profile=wanted.profile,
        subject=wanted.subject.rfc4514_string(),
        names=tuple(str(name.value) for name in wanted.names),
        key_digest=wanted.digest,
        not_before=term.begins,
        not_after=term.ends,
        client=wanted.client,
    )


def _check_next_token(authority: Authority, wanted: Wanted) -> None:
    """Raise Conflict, with the fix, for an authority that the worker would not certify: its next key is in another token."""
    below = wanted.below
    if below is None or wanted.digest.hex() == authority.constraints.next_key:
        return
    if below.constraints.next_elsewhere:
        raise Conflict(
            f"the next key of {below.key.name} is in another token, where what it may certify is not known to that of"
            f" {authority.key.name}; make the authority again with --next-token {authority.key.token}"
        )


def _wanted_key(tx: Transaction, request: CaIssue) -> Wanted:
    """A key that the daemon serves."""
    key = tx.keys.get(request.key)
    if request.profile == ISSUING:
        below = Authority.read(tx, request.key)
        return Wanted(ISSUING, key.public_key, key.digest, below.name, (), of=key, below=below)
    names = _names(request)
    if not names and not request.common_name:
        raise BadRequest("dns_names: give at least one host name or address for the certificate")
    decrypts = Purpose.TLS12_RSA_PREMASTER in key.purposes
    return Wanted(
        request.profile, key.public_key, key.digest, subject(request.common_name, ""), names, decrypts, key
    )


def _wanted_by_request(request: CaIssue) -> Wanted:
    """The key of a certificate request, which proves that its sender has it."""
    if request.profile == ISSUING:
        raise BadRequest(
            "key: an authority is certified by the name of its key, which must be in the same token"
        )
    csr, spki = proven_key(request.request)
    names, common_name = _names(request), request.common_name
    if not names and not common_name:
        try:
            names, common_name = _requested_names(csr), _common_name(csr.subject)
        except UNREADABLE:
            raise _malformed() from None
    if len(names) > MAX_NAMES:
        raise BadRequest(f"request: at most {MAX_NAMES} names; use a second certificate")
    return Wanted(request.profile, spki, sha256(spki).digest(), subject(common_name, ""), names)


def proven_key(pem_request: str) -> tuple[x509.CertificateSigningRequest, bytes]:
    """A certificate request that is signed by the key in it, and that key (DER SubjectPublicKeyInfo). Raises BadRequest."""
    try:
        csr = x509.load_pem_x509_csr(pem_request.encode())
        public_key = csr.public_key()
        known = key_type_of(public_key) is not None
        valid = known and csr.is_signature_valid
    except UNREADABLE:
        raise _malformed() from None
    if not known:
        raise BadRequest(
            "request: its key is of a type that is not certified here; use p-256, rsa-2048 or another one"
        )
    if not valid:
        raise BadRequest("request: it is not signed by the key in it")
    return csr, public_key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def _malformed() -> BadRequest:
    return BadRequest("request: is not a well-formed certificate request in PEM")


def _names(request: CaIssue) -> tuple[x509.GeneralName, ...]:
    names = alternative_names(request.dns_names, request.ip_addresses)
    return (*names, *(x509.RFC822Name(mailbox("emails", text)) for text in request.emails))


def _requested_names(csr: x509.CertificateSigningRequest) -> tuple[x509.GeneralName, ...]:
    try:
        return tuple(csr.extensions.get_extension_for_class(x509.SubjectAlternativeName).value)
    except x509.ExtensionNotFound:
        return ()


def _common_name(name: x509.Name) -> str:
    found = name.get_attributes_for_oid(x509.NameOID.COMMON_NAME)
    return str(found[0].value) if found else ""


def _wanted_again(tx: Transaction, old: IssuedRecord) -> Wanted:
    """What a certificate certifies."""
    certificate = x509.load_der_x509_certificate(old.certificate)
    spki = certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    key = tx.keys.with_digest(old.key_digest)
    if old.profile == ISSUING:
        if key is None:
            raise Conflict("the authority that this certificate is for is not served any more")
        below = Authority.read(tx, key.name)
        # A link is not the certificate that the authority has.
        of = key if below.chain and below.chain[0] == certificate else None
        return Wanted(ISSUING, spki, old.key_digest, certificate.subject, (), of=of, below=below)
    try:
        names = tuple(certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value)
    except x509.ExtensionNotFound:
        names = ()
    usage = certificate.extensions.get_extension_for_class(x509.KeyUsage).value
    return Wanted(old.profile, spki, old.key_digest, certificate.subject, names, usage.key_encipherment, key)
