"""What nodes get from authorities: certificates with the names that an operator has allowed, trust anchors, revocation lists.

A node is a client like any other, perhaps a hostile one: of its request only the key counts.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime
from functools import partial
from hashlib import sha256

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from hsmd.daemon import pki
from hsmd.daemon.front.access.identity import Identity
from hsmd.daemon.front.access.snapshot_cache import SnapshotCache
from hsmd.daemon.front.authorities.authority import Authority, aware_now, pem
from hsmd.daemon.front.authorities.issuing import Issuing, Wanted, proven_key
from hsmd.daemon.front.authorities.permits import names_of
from hsmd.daemon.pki.names import subject
from hsmd.daemon.store import IssuedRecord, PermitRecord, Transaction
from hsmd.errors import BadRequest, Conflict, NotFound, Overloaded
from hsmd.protocol.messages import NodeCertificate
from hsmd.system.client_threads import in_thread
from hsmd.system.intake import paying

MAX_CERTIFICATES = 20
"""Certificates of one node, by one authority, that have not ended."""
RETRY_S = 0.5
"""After this time a node may ask again while its last request is under way."""
CERTIFICATE, TRUST = 4_000.0, 2_000.0
"""What the two requests cost beyond a control request, in microseconds of the client's account (`front/ssh/tariff.py`)."""
MAX_CHAIN = 10
"""Certificates between an authority and its trust anchor."""
_AUTHORITIES = 500


class NodeIssuing:
    """Issues certificates to nodes, and tells them what their peers' certificates are checked with."""

    def __init__(
        self, *, cache: SnapshotCache, issuing: Issuing, now: Callable[[], datetime] = aware_now
    ) -> None:
        self._cache = cache
        self._issuing = issuing
        self._now = now
        self._asking: set[str] = set()

    async def issue(
        self, identity: Identity, request: NodeCertificate, deadline: float
    ) -> tuple[IssuedRecord, str]:
        """A certificate for the key of a request, and its chain in PEM. Raises HsmdError.

        Overloaded while the last request of this client is under way, at this daemon.
        """
        if identity.client in self._asking:
            raise Overloaded.retry_in(RETRY_S)
        self._asking.add(identity.client)
        _charge(CERTIFICATE)
        try:
            return await self._issue(identity, request, deadline)
        finally:
            self._asking.discard(identity.client)

    async def _issue(
        self, identity: Identity, request: NodeCertificate, deadline: float
    ) -> tuple[IssuedRecord, str]:
        authority, permit = await self._cache.read(
            lambda tx: _permitted(tx, request.authority, identity.client)
        )
        _, spki = await in_thread(proven_key, request.request)
        wanted = Wanted(
            profile=permit.profile,
            spki=spki,
            digest=sha256(spki).digest(),
            subject=subject(permit.common_name, ""),
            names=tuple(names_of(permit)),
            client=identity.client,
        )
        admit = partial(_admit, permit=permit, wanted=wanted, authority=authority, now=self._now())
        return await self._issuing.issue_to_node(identity, authority, wanted, permit.term_s, admit, deadline)

    async def trust(self, client: str, name: str) -> tuple[str, str]:
        """The trust anchor of an authority, and its revocation lists and those above it, in PEM. Raises HsmdError."""
        _charge(TRUST)
        found: tuple[str, str] = await self._cache.read(lambda tx: _trust(tx, client, name))
        return found


def _charge(cost: float) -> None:
    intake = paying.get()
    if intake is not None:
        intake.spend(cost)


def _permitted(tx: Transaction, name: str, client: str) -> tuple[Authority, PermitRecord]:
    """An authority that may issue to a client. Which authorities there are besides is not told."""
    permit = tx.permits.find(name, client)
    if permit is None:
        raise _not_permitted()
    return Authority.read(tx, name), permit


def _not_permitted() -> NotFound:
    return NotFound(
        "authority: there is none of this name that issues certificates to this client; an operator can allow it: "
        "hsmd ca allow AUTHORITY CLIENT"
    )


def _admit(
    tx: Transaction, *, permit: PermitRecord, wanted: Wanted, authority: Authority, now: datetime
) -> None:
    """Refuse what is not permitted any more, or once too often, or is for a key that is not the node's own.

    The permit is locked: requests at other daemons are counted one after the other.
    """
    locked = tx.permits.lock(permit.authority, permit.client)
    if locked is None:
        raise _not_permitted()
    if locked != permit or tx.keys.get(permit.authority).digest != authority.key.digest:
        raise Conflict("what the authority issues to this client was changed just now; try again")
    if tx.keys.with_digest(wanted.digest) is not None or tx.authorities.has_next_key(wanted.spki):
        raise BadRequest("request: its key is one that the daemon serves; a node has a key of its own")
    if any(_spki(each) == wanted.spki for each in authority.chain):
        raise BadRequest("request: its key is that of an authority; a node has a key of its own")
    use = tx.permits.use(permit.authority, permit.client, now)
    if use.count >= MAX_CERTIFICATES and use.first_ends is not None:
        raise Conflict(
            f"this client has {use.count} certificates of the authority that have not ended, and cannot have more than "
            f"{MAX_CERTIFICATES}; the next one ends at {use.first_ends:%Y-%m-%d %H:%M:%S} UTC"
        )


def _trust(tx: Transaction, client: str, name: str) -> tuple[str, str]:
    authority, _ = _permitted(tx, name, client)
    chain = _chain_to_anchor(tx, authority)
    known = [found for each in chain if (found := _authority_of(tx, each)) is not None]
    anchor = chain[-1]
    for each in known:  # one whose certificate was renewed since it certified those below
        if each.chain and _spki(each.chain[0]) == _spki(anchor) and pki.is_self_signed(each.chain[0]):
            anchor = each.chain[0]
    known += _generations(tx, known)
    lists = {each.record.key: each.record.list_der for each in known if each.record.list_der}
    return pem(anchor), "".join(pem(x509.load_der_x509_crl(document)) for document in lists.values())


def _generations(tx: Transaction, known: Sequence[Authority]) -> list[Authority]:
    """The authorities before and behind these: while two generations are trusted, peers look at the lists of both."""
    digests = {each.key.digest.hex() for each in known}
    following = {each.constraints.next_key for each in known} - {""}
    found = [Authority.read(tx, record.key) for record in tx.authorities.page("", _AUTHORITIES).items]
    return [
        each
        for each in found
        if each.key.digest.hex() not in digests
        and (each.key.digest.hex() in following or each.constraints.next_key in digests)
    ]


def _chain_to_anchor(tx: Transaction, authority: Authority) -> list[x509.Certificate]:
    """The certificates of an authority and of those above it, up to a self-signed one. Raises Conflict."""
    chain = list(authority.chain)
    while chain and not pki.is_self_signed(chain[-1]):
        issuer = _issuer_of(tx, chain[-1]) if len(chain) < MAX_CHAIN else None
        if issuer is None:
            break
        chain += issuer.chain
    if not chain or not pki.is_self_signed(chain[-1]):
        name = authority.key.name
        raise Conflict(
            f"the chain of {name} does not end in a self-signed certificate, so there is no trust anchor to give; an "
            f"operator stores the whole chain: hsmd ca renew {name} --chain FILE"
        )
    return chain


def _issuer_of(tx: Transaction, certificate: x509.Certificate) -> Authority | None:
    """The authority of this daemon that has issued a certificate of another one."""
    for record in tx.authorities.page("", _AUTHORITIES).items:
        found = Authority.read(tx, record.key)
        if found.chain and pki.is_issued_by(certificate, found.chain[0]):
            return found
    return None


def _authority_of(tx: Transaction, certificate: x509.Certificate) -> Authority | None:
    """The authority of this daemon that has the key of a certificate."""
    key = tx.keys.with_digest(sha256(_spki(certificate)).digest())
    if key is None:
        return None
    try:
        return Authority.read(tx, key.name)
    except NotFound:
        return None


def _spki(certificate: x509.Certificate) -> bytes:
    return certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
