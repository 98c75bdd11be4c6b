"""Handlers of control requests about certificate authorities."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime

from cryptography import x509
from cryptography.hazmat.primitives.serialization import load_der_public_key

from hsmd.daemon import pki
from hsmd.daemon.front.access.identity import Identity
from hsmd.daemon.front.access.snapshot_cache import SnapshotCache
from hsmd.daemon.front.authorities.authority import Authority, aware_now, name_of, pem
from hsmd.daemon.front.authorities.issuing import Issuing
from hsmd.daemon.front.authorities.making import AuthorityMaker
from hsmd.daemon.front.control.dispatcher import Handler
from hsmd.daemon.store import AuthorityRecord, IssuedRecord, Transaction
from hsmd.errors import BadRequest
from hsmd.protocol import messages
from hsmd.protocol.messages import Request
from hsmd.purposes import AuthorityConstraints
from hsmd.system.client_threads import in_thread
from hsmd.system.pages import fitting


class AuthorityHandlers:
    """Makes and shows authorities, and what they issue."""

    def __init__(
        self,
        *,
        cache: SnapshotCache,
        maker: AuthorityMaker,
        issuing: Issuing,
        now: Callable[[], datetime] = aware_now,
    ) -> None:
        self._cache = cache
        self._maker = maker
        self._issuing = issuing
        self._now = now

    def handlers(self) -> dict[type[Request], Handler]:
        """The method that carries out each request."""
        return {
            messages.CaInit: self.init,
            messages.CaIssue: self.issue,
            messages.CaRenew: self.renew,
            messages.CaRevoke: self.revoke,
            messages.CaCrl: self.sign_list,
            messages.CaShow: self.show,
            messages.CaList: self.list,
            messages.CaCertificates: self.certificates,
        }

    async def init(
        self, identity: Identity, request: messages.CaInit, deadline: float
    ) -> messages.AuthorityMade:
        authority, requested = await self._maker.make(identity, request, deadline)
        return messages.AuthorityMade(
            self._info(authority.record), "".join(map(pem, authority.chain)), requested
        )

    async def issue(
        self, identity: Identity, request: messages.CaIssue, deadline: float
    ) -> messages.IssuedCertificate:
        record, chain = await self._issuing.issue(identity, request, deadline)
        return messages.IssuedCertificate(self._issued(record), chain)

    async def renew(
        self, identity: Identity, request: messages.CaRenew, deadline: float
    ) -> messages.IssuedCertificate:
        authority = await self._issuing.read(request.authority)
        if request.serial and request.chain:
            raise BadRequest("chain: it is for the authority's own certificate; leave the serial number out")
        if request.serial:
            record, chain = await self._issuing.renew(
                identity, authority, request.serial, request.term_s, deadline
            )
            return messages.IssuedCertificate(self._issued(record), chain)
        if request.chain:
            authority = await self._store_chain(authority, request.chain)
        elif authority.chain and authority.chain[0].issuer != authority.chain[0].subject:
            raise BadRequest(
                f"chain: another authority has issued the certificate of {request.authority}; give the one that it"
                f" issues now, or renew it there: hsmd ca renew AUTHORITY SERIAL"
            )
        else:
            seconds = request.term_s or authority.constraints.authority_s
            authority = await self._maker.certify_itself(identity, authority, seconds, deadline)
        return messages.IssuedCertificate(self._own(authority), "".join(map(pem, authority.chain)))

    async def _store_chain(self, authority: Authority, chain: str) -> Authority:
        public_key = load_der_public_key(authority.key.public_key)
        facts = await in_thread(pki.check_authority_chain, chain, public_key, self._now())
        certificates = tuple(x509.load_pem_x509_certificates(facts.chain_pem.encode()))
        if certificates[0].subject.public_bytes() != authority.constraints.name:
            raise BadRequest(
                "chain: the certificate has another subject than the name in the authority's ceiling"
            )
        return await self._maker.store_chain(authority, certificates)

    async def revoke(
        self, identity: Identity, request: messages.CaRevoke, deadline: float
    ) -> messages.CertificateRevoked:
        authority = await self._issuing.read(request.authority)
        changed, signed = await self._issuing.revoke(
            identity, authority, request.serial, request.reason, deadline, request.unknown_until
        )
        return messages.CertificateRevoked(changed, signed)

    async def sign_list(
        self, identity: Identity, request: messages.CaCrl, deadline: float
    ) -> messages.PemDocument:
        authority = await self._issuing.read(request.authority)
        return messages.PemDocument(await self._issuing.sign_list(identity, authority, deadline))

    async def show(
        self, identity: Identity, request: messages.CaShow, deadline: float
    ) -> messages.AuthorityShown:
        authority = await self._issuing.read(request.authority)
        document = authority.record.list_der
        revocations = pem(x509.load_der_x509_crl(document)) if document else ""
        chain = "".join(map(pem, authority.chain))
        return messages.AuthorityShown(self._info(authority.record), chain, revocations)

    async def list(
        self, identity: Identity, request: messages.CaList, deadline: float
    ) -> messages.AuthorityPage:
        page = await self._cache.read(lambda tx: tx.authorities.page(request.after, request.limit))
        return messages.AuthorityPage(*fitting([self._info(each) for each in page.items], page.more))

    async def certificates(
        self, identity: Identity, request: messages.CaCertificates, deadline: float
    ) -> messages.IssuedPage:
        def read(tx: Transaction) -> tuple[list[IssuedRecord], bool]:
            page = tx.issued.page(request.authority, request.after, request.limit, revoked=request.revoked)
            return list(page.items), page.more

        items, more = await self._cache.read(read)
        return messages.IssuedPage(*fitting([self._issued(each) for each in items], more))

    def _info(self, record: AuthorityRecord) -> messages.AuthorityInfo:
        found, snapshot = AuthorityConstraints.parse(record.constraints), self._cache.snapshot
        permitted, excluded = found.permitted, found.excluded
        digest = snapshot.digest_of(record.key)
        key = snapshot.key_with(bytes.fromhex(digest)) if digest else None
        return messages.AuthorityInfo(
            name=record.key,
            subject=name_of(found).rfc4514_string(),
            digest=digest,
            token=key.token if key else "",
            key_type=key.key_type.value if key else "",
            limits=messages.AuthorityLimits(
                profiles=found.profiles,
                permitted_dns=permitted.dns,
                permitted_ip=permitted.ip,
                permitted_email=permitted.email,
                excluded_dns=excluded.dns,
                excluded_ip=excluded.ip,
                excluded_email=excluded.email,
                common_names=found.common_names,
                path_length=found.path_length,
                leaf_s=found.leaf_s,
                authority_s=found.authority_s,
            ),
            next_key=found.next_key,
            next_token=record.next_token,
            lists_at=list(record.lists_at),
            list_s=record.list_s,
            list_number=record.list_number,
            list_ends=record.list_ends,
            certificate_not_after=snapshot.certificate_not_after(record.key),
        )

    def _issued(self, record: IssuedRecord) -> messages.IssuedInfo:
        key = self._cache.snapshot.key_with(record.key_digest)
        return messages.IssuedInfo(
            number=record.row,
            serial=record.serial,
            profile=record.profile,
            subject=record.subject,
            names=list(record.names),
            key_digest=record.key_digest.hex(),
            key="" if key is None else key.name,
            not_before=record.not_before,
            not_after=record.not_after,
            signed=bool(record.certificate),
            revoked_at=record.revoked_at,
            reason=record.reason,
            client=record.client,
        )

    def _own(self, authority: Authority) -> messages.IssuedInfo:
        """The authority's own certificate, which stands in no list of its own."""
        own = authority.chain[0]
        return messages.IssuedInfo(
            number=0,
            serial=f"{own.serial_number:x}",
            profile="issuing",
            subject=own.subject.rfc4514_string(),
            names=[],
            key_digest=authority.key.digest.hex(),
            key=authority.key.name,
            not_before=own.not_valid_before_utc,
            not_after=own.not_valid_after_utc,
            signed=True,
        )
