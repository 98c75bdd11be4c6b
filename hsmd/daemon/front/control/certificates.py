"""Handlers of control requests about certificates: requests, self-signed certificates, stored chains."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from functools import partial
from secrets import randbits

from cryptography.hazmat.primitives.serialization import load_der_public_key

from hsmd.algorithms import SignatureScheme
from hsmd.daemon import pki
from hsmd.daemon.front.access.identity import Identity
from hsmd.daemon.front.access.rules import Denial
from hsmd.daemon.front.access.snapshot import Grant
from hsmd.daemon.front.access.snapshot_cache import SnapshotCache
from hsmd.daemon.front.control.dispatcher import Handler
from hsmd.daemon.front.control.keys import key_info, visible_key
from hsmd.daemon.front.ledger.producers import replace_certificate
from hsmd.daemon.front.signing.daemon_signing import sign_as_daemon
from hsmd.daemon.front.signing.service import KeyService
from hsmd.daemon.store import Transaction
from hsmd.daemon.store.records import CertificateRecord, KeyRecord
from hsmd.errors import BadRequest, Refused
from hsmd.protocol import messages
from hsmd.protocol.chain_pages import ChainPageBuilder
from hsmd.protocol.messages import Request
from hsmd.protocol.roles import Role
from hsmd.purposes import Purpose, labels
from hsmd.system.client_threads import in_thread
from hsmd.system.control_requests import MAX_RESULT_BYTES

BACKDATED = timedelta(hours=1)
"""How long before the present a self-signed certificate begins: clocks of clients may be behind."""
CHAINS_AT_A_TIME = 50
"""Chains that one read of the store returns."""


class CertificateHandlers:
    """Signs certificate requests and self-signed certificates with keys, and keeps the chains of keys in the store."""

    def __init__(
        self,
        *,
        cache: SnapshotCache,
        service: KeyService,
        certificate_state: Callable[[str], str],
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._cache = cache
        self._service = service
        self._certificate_state = certificate_state
        self._now = now

    def handlers(self) -> dict[type[Request], Handler]:
        """The method that carries out each request."""
        return {
            messages.KeyRequest: self.certificate_request,
            messages.CertificateImport: self.import_certificate,
            messages.CertificateSelfSigned: self.self_signed,
            messages.CertificateExport: self.export_certificate,
            messages.CertificateChains: self.export_chains,
        }

    async def certificate_request(
        self, identity: Identity, request: messages.KeyRequest, deadline: float
    ) -> messages.PemDocument:
        key = await self._cache.read(lambda tx: tx.keys.get(request.name))
        grant = self._limited_grant(identity, request)
        if grant is not None and grant.allowed is not None:
            grant.allowed.check_fields(
                request.common_name, request.dns_names, request.ip_addresses, request.organization
            )
        scheme = pki.default_scheme(key.key_type)
        unsigned = pki.certificate_request(
            key.public_key,
            scheme,
            request.common_name,
            request.dns_names,
            request.ip_addresses,
            request.organization,
        )
        data = unsigned.to_be_signed
        signature = await self._sign(identity, key, Purpose.X509_REQUEST, scheme, data, deadline, grant)
        return messages.PemDocument(pem=unsigned.signed_pem(signature))

    def _limited_grant(self, identity: Identity, request: messages.KeyRequest) -> Grant | None:
        """The grant with which a front end makes this request; None for operators, who need none. Raises Refused."""
        if Role.OPERATOR in identity.roles:
            return None
        decision = self._cache.snapshot.decide_for_request(
            identity, request.name, Purpose.X509_REQUEST, self._now()
        )
        if isinstance(decision, Denial):
            raise Refused(detail=decision.rule.value)
        return decision

    async def self_signed(
        self, identity: Identity, request: messages.CertificateSelfSigned, deadline: float
    ) -> messages.PemDocument:
        key = await self._cache.read(lambda tx: tx.keys.get(request.key))
        scheme = pki.default_scheme(key.key_type)
        now = self._now().replace(microsecond=0)
        stored = await self._cache.read(lambda tx: tx.certificates.of([key.name]))
        if stored and not request.force and pki.is_valid_and_of_a_ca(stored[0].chain_pem, now):
            raise BadRequest(
                f"key: a CA has issued the certificate of {key.name}, which is valid until {stored[0].not_after:%Y-%m-%d}, and"
                " clients refuse a self-signed one in its place. To store it nevertheless: hsmd cert self-signed --force"
            )
        unsigned = pki.self_signed_certificate(
            key.public_key,
            request.dns_names,
            request.ip_addresses,
            now - BACKDATED,
            now + timedelta(days=request.days),
            randbits(159),
            scheme,
        )
        data = unsigned.to_be_signed
        signature = await self._sign(identity, key, Purpose.X509_SELF_SIGNED, scheme, data, deadline)
        chain = unsigned.signed_pem(signature)
        await self._store_chain(key, chain, force=True)
        return messages.PemDocument(pem=chain)

    async def import_certificate(
        self, identity: Identity, request: messages.CertificateImport, deadline: float
    ) -> messages.KeyInfo:
        key = await self._cache.read(lambda tx: tx.keys.get(request.key))
        warnings = await self._store_chain(key, request.chain, force=request.force)
        info = key_info(key, self._cache.snapshot, self._certificate_state(key.name))
        info.warnings = [*info.warnings, *warnings]
        return info

    async def export_certificate(
        self, identity: Identity, request: messages.CertificateExport, deadline: float
    ) -> messages.PemDocument:
        key = await visible_key(self._cache, identity, request, request.key, self._now())
        certificate = await self._cache.read(lambda tx: tx.certificates.get(key.name))
        return messages.PemDocument(pem=certificate.chain_pem)

    async def export_chains(
        self, identity: Identity, request: messages.CertificateChains, deadline: float
    ) -> messages.ChainPage:
        """Chains are read in small parts, because they are of very different sizes and an answer is bounded by its bytes."""
        page = ChainPageBuilder(MAX_RESULT_BYTES)
        for names in _parts(request.keys):
            wanted = self._visible(identity, request, names)
            found = {each.key: each for each in await self._cache.read(partial(_chains_of, names=wanted))}
            for name in names:
                chain = found.get(name)
                taken = page.add(name, chain.chain_pem, chain.mark) if chain else page.add(name, "", "")
                if not taken:
                    return page.page()
        return page.page()

    def _visible(self, identity: Identity, request: Request, names: Iterable[str]) -> list[str]:
        """Those of these keys that the caller may name in this request."""
        snapshot = self._cache.snapshot
        visible = snapshot.keys_for(identity, type(request), self._now())
        if visible is None:
            return list(names)
        return [name for name in names if bytes.fromhex(snapshot.digest_of(name)) in visible]

    async def _store_chain(self, key: KeyRecord, chain: str, *, force: bool) -> tuple[str, ...]:
        """Check and store the chain of a key; return what is doubtful about it. Raises BadRequest for faults, unless forced."""
        now = self._now()
        stored = await self._cache.read(lambda tx: tx.certificates.of([key.name]))
        facts = await in_thread(
            pki.check_chain,
            chain,
            load_der_public_key(key.public_key),
            now,
            purposes=key.purposes,
            previous=stored[0].chain_pem if stored else "",
        )
        if not force:
            facts.refuse_faults("hsmd cert import --force")
        await self._cache.change(
            lambda tx: replace_certificate(tx, key, facts.chain_pem, facts.not_after, now, facts.not_before)
        )
        return (*facts.faults, *facts.warnings)

    async def _sign(
        self,
        identity: Identity,
        key: KeyRecord,
        purpose: Purpose,
        scheme: SignatureScheme,
        data: bytes,
        deadline: float,
        grant: Grant | None = None,
    ) -> bytes:
        if purpose not in key.purposes:
            raise BadRequest(
                f"key: the purposes of {key.name!r}, fixed as {', '.join(labels(key.purposes))}, do not include {purpose.label}"
            )
        return await sign_as_daemon(self._service, identity, key, purpose, scheme, data, deadline, grant)


def _parts(names: Sequence[str]) -> Iterator[Sequence[str]]:
    return (names[at : at + CHAINS_AT_A_TIME] for at in range(0, len(names), CHAINS_AT_A_TIME))


def _chains_of(tx: Transaction, names: list[str]) -> list[CertificateRecord]:
    return tx.certificates.of(names)
