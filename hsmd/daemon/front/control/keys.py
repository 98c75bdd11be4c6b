"""Control requests about keys and their certificates."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from secrets import randbits

from cryptography.hazmat.primitives.serialization import load_der_public_key

from hsmd.algorithms import KeyType, SignatureScheme, key_type_of
from hsmd.daemon import pki
from hsmd.daemon.front.access.identity import DAEMON, Identity
from hsmd.daemon.front.access.snapshot_cache import SnapshotCache
from hsmd.daemon.front.control.dispatcher import Handler
from hsmd.daemon.front.signing.daemon_signing import sign_as_daemon
from hsmd.daemon.front.signing.service import KeyService
from hsmd.daemon.front.tokens.pool import TokenPool
from hsmd.daemon.ipc import worker_messages as token_messages
from hsmd.daemon.store.records import KeyRecord
from hsmd.errors import BadRequest, Conflict, NotFound
from hsmd.protocol import messages
from hsmd.protocol.messages import Request
from hsmd.protocol.roles import Role
from hsmd.purposes import Purpose, check_ceiling, expand, labels, with_daemon_purposes

CHECKPOINT_KEY = "hsmd-checkpoint"
"""Name of the key that the daemons of one store sign checkpoints with."""
_EDWARDS = {"EDDSA", "EC_EDWARDS_KEY_PAIR_GEN"}
"""Mechanisms that a token needs for Ed25519 (PKCS #11 3.0, section 6.3.15)."""


class KeyHandlers:
    """Generates, adopts, shows and destroys keys; makes requests and certificates with them."""

    def __init__(
        self,
        *,
        catalogue: SnapshotCache,
        service: KeyService,
        pools: Mapping[str, TokenPool],
        clock: Callable[[], float],
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._catalogue = catalogue
        self._service = service
        self._pools = pools
        self._clock = clock
        self._now = now
        self._making = asyncio.Lock()
        """Names are looked up before keys are made, which takes a while."""

    def handlers(self) -> dict[type[Request], Handler]:
        """Which method carries out which request."""
        return {
            messages.KeyGenerate: self.generate,
            messages.KeyCandidates: self.candidates,
            messages.KeyAdopt: self.adopt,
            messages.KeyList: self.list,
            messages.KeyShow: self.show,
            messages.KeyDestroy: self.destroy,
            messages.KeyRename: self.rename,
            messages.KeyRequest: self.certificate_request,
            messages.CertificateImport: self.import_certificate,
            messages.CertificateSelfSigned: self.self_signed,
            messages.CertificateExport: self.export_certificate,
            messages.KeyOwnerAdd: self.add_owner,
            messages.KeyOwnerRemove: self.remove_owner,
            messages.KeyOwnerList: self.list_owners,
        }

    # --- keys ---

    async def generate(
        self, identity: Identity, request: messages.KeyGenerate, deadline: float
    ) -> messages.KeyInfo:
        key_type = _key_type(request.key_type)
        purposes = with_daemon_purposes(expand(request.purposes))
        check_ceiling(key_type, purposes)
        token, pool = self._token(request.token)
        asked = token_messages.Generate(name=request.name, key_type=key_type.value, purposes=labels(purposes))
        async with self._making:
            await self._name_is_free(request.name)
            made = await pool.control(asked, deadline - self._clock())
            try:
                return await self._register(request.name, token, made)
            except (
                Conflict
            ):  # another daemon took the name meanwhile: nobody has used this key, nobody ever will
                await pool.control(token_messages.Destroy(key=made.key), deadline - self._clock())
                raise

    async def generate_checkpoint_key(self, deadline: float) -> None:
        """Make the key that signs checkpoints of the audit log, in the first token, if no daemon has done so yet."""
        token = next(iter(self._pools))
        abilities = self._pools[token].status().abilities
        key_type = KeyType.ED25519 if set(abilities) >= _EDWARDS else KeyType.P256
        asked = messages.KeyGenerate(
            name=CHECKPOINT_KEY, key_type=key_type.value, purposes=[Purpose.CHECKPOINT.label], token=token
        )
        await self.generate(DAEMON, asked, deadline)

    async def candidates(
        self, identity: Identity, request: messages.KeyCandidates, deadline: float
    ) -> messages.KeyCandidateList:
        token, pool = self._token(request.token)
        found = await pool.control(token_messages.Candidates(), deadline - self._clock())
        keys = [
            messages.KeyCandidate(key.cka_id, key.cka_label, key.key_type, list(key.unsafe))
            for key in found.keys
        ]
        return messages.KeyCandidateList(token=token, keys=keys)

    async def adopt(
        self, identity: Identity, request: messages.KeyAdopt, deadline: float
    ) -> messages.KeyInfo:
        purposes = (
            with_daemon_purposes(expand(request.purposes)) if request.purposes else frozenset[Purpose]()
        )
        if not request.cka_id and not request.cka_label:
            raise BadRequest("cka_id: name the key by its CKA_ID in hex, or by its CKA_LABEL")
        token, pool = self._token(request.token)
        asked = token_messages.Adopt(
            name=request.name,
            purposes=labels(purposes),
            cka_id=request.cka_id,
            cka_label=request.cka_label,
            certificate=request.certificate,
            accept_unsafe=request.accept_unsafe,
        )
        async with self._making:
            await self._name_is_free(request.name)
            adopted = await pool.control(asked, deadline - self._clock())
            return await self._register(request.name, token, adopted)

    async def list(self, identity: Identity, request: messages.KeyList, deadline: float) -> messages.KeyPage:
        digests = None
        if identity.role is Role.FRONT_END:
            digests = self._catalogue.snapshot.keys_of(identity.client)
        page = await self._catalogue.read(lambda tx: tx.keys.page(request.after, request.limit, digests))
        return messages.KeyPage(keys=[self._info(key) for key in page.items], more=page.more)

    async def show(self, identity: Identity, request: messages.KeyShow, deadline: float) -> messages.KeyInfo:
        return self._info(await self._visible(identity, request.name))

    async def destroy(
        self, identity: Identity, request: messages.KeyDestroy, deadline: float
    ) -> messages.Done:
        if request.confirm != request.name:
            raise BadRequest(f"confirm: repeat the key's name, {request.name!r}, to destroy it for ever")
        key = await self._catalogue.read(lambda tx: tx.keys.get(request.name))
        _, pool = self._token(key.token)
        # The token first, where it counts. If only that succeeds the operator can ask again: gone already is done.
        await pool.control(token_messages.Destroy(key=key.digest.hex()), deadline - self._clock())
        await self._catalogue.change(lambda tx: tx.keys.remove(request.name))
        return messages.Done()

    async def rename(self, identity: Identity, request: messages.KeyRename, deadline: float) -> messages.Done:
        await self._catalogue.change(lambda tx: tx.keys.rename(request.name, request.new_name))
        return messages.Done()

    async def add_owner(
        self, identity: Identity, request: messages.KeyOwnerAdd, deadline: float
    ) -> messages.Done:
        changed = await self._catalogue.change(lambda tx: tx.owners.add(request.key, request.client))
        return messages.Done(changed)

    async def remove_owner(
        self, identity: Identity, request: messages.KeyOwnerRemove, deadline: float
    ) -> messages.Done:
        changed = await self._catalogue.change(lambda tx: tx.owners.remove(request.key, request.client))
        return messages.Done(changed)

    async def list_owners(
        self, identity: Identity, request: messages.KeyOwnerList, deadline: float
    ) -> messages.KeyOwners:
        owners = await self._catalogue.read(lambda tx: tx.owners.all())
        return messages.KeyOwners([messages.KeyOwner(each.key, each.client) for each in owners])

    # --- certificates ---

    async def certificate_request(
        self, identity: Identity, request: messages.KeyRequest, deadline: float
    ) -> messages.PemDocument:
        key = await self._catalogue.read(lambda tx: tx.keys.get(request.name))
        info = pki.build_request_info(
            key.public_key, request.common_name, request.dns_names, request.ip_addresses, request.organization
        )
        scheme = pki.default_scheme(key.key_type)
        signature = await self._sign(identity, key, Purpose.X509_REQUEST, scheme, info, deadline)
        return messages.PemDocument(pem=pki.assemble_request(info, scheme, signature))

    async def self_signed(
        self, identity: Identity, request: messages.CertificateSelfSigned, deadline: float
    ) -> messages.PemDocument:
        key = await self._catalogue.read(lambda tx: tx.keys.get(request.key))
        scheme = pki.default_scheme(key.key_type)
        not_before = self._now().replace(microsecond=0)
        tbs = pki.build_self_signed_tbs(
            key.public_key,
            request.dns_names,
            request.ip_addresses,
            not_before,
            not_before + timedelta(days=request.days),
            randbits(159),
            scheme,
        )
        signature = await self._sign(identity, key, Purpose.X509_SELF_SIGNED, scheme, tbs, deadline)
        chain = pki.assemble_certificate(tbs, scheme, signature)
        await self._store_chain(key, chain)
        return messages.PemDocument(pem=chain)

    async def import_certificate(
        self, identity: Identity, request: messages.CertificateImport, deadline: float
    ) -> messages.KeyInfo:
        key = await self._catalogue.read(lambda tx: tx.keys.get(request.key))
        warnings = await self._store_chain(key, request.chain)
        info = self._info(key)
        info.warnings = [*info.warnings, *warnings]
        return info

    async def export_certificate(
        self, identity: Identity, request: messages.CertificateExport, deadline: float
    ) -> messages.PemDocument:
        key = await self._visible(identity, request.key)
        certificate = await self._catalogue.read(lambda tx: tx.certificates.get(key.name))
        return messages.PemDocument(pem=certificate.chain_pem)

    # --- steps ---

    async def _name_is_free(self, name: str) -> None:
        try:
            await self._catalogue.read(lambda tx: tx.keys.get(name))
        except NotFound:
            return
        raise BadRequest(f"name: there is a key called {name!r} already; choose another name")

    async def _register(self, name: str, token: str, made: token_messages.KeyDescription) -> messages.KeyInfo:
        key_type = key_type_of(load_der_public_key(made.public_key))
        if key_type is None:
            raise BadRequest("the key's type is not one that hsmd serves")
        record = KeyRecord(
            name=name,
            key_type=key_type,
            digest=bytes.fromhex(made.key),
            public_key=made.public_key,
            purposes=expand(made.purposes),
            token=token,
            created_at=self._now(),
            warnings=tuple(made.warnings),
        )
        await self._catalogue.change(lambda tx: tx.keys.add(record))
        return self._info(record)

    async def _visible(self, identity: Identity, name: str) -> KeyRecord:
        """A key the caller may see. To a front end a key without a grant is as unknown as one that does not exist."""
        key = await self._catalogue.read(lambda tx: tx.keys.get(name))
        if identity.role is Role.FRONT_END and key.digest not in self._catalogue.snapshot.keys_of(
            identity.client
        ):
            raise NotFound(f"there is no key {name!r}")
        return key

    async def _store_chain(self, key: KeyRecord, chain: str) -> tuple[str, ...]:
        public_key = load_der_public_key(key.public_key)
        facts = await asyncio.to_thread(pki.check_chain, chain, public_key)
        await self._catalogue.change(
            lambda tx: tx.certificates.set(key.name, facts.chain_pem, facts.not_after)
        )
        return tuple(facts.warnings)

    async def _sign(
        self,
        identity: Identity,
        key: KeyRecord,
        purpose: Purpose,
        scheme: SignatureScheme,
        data: bytes,
        deadline: float,
    ) -> bytes:
        if purpose not in key.purposes:
            raise BadRequest(f"key: the ceiling of {key.name!r} does not hold {purpose.label}")
        return await sign_as_daemon(self._service, identity, key, purpose, scheme, data, deadline)

    def _token(self, name: str) -> tuple[str, TokenPool]:
        if not name and len(self._pools) == 1:
            name = next(iter(self._pools))
        pool = self._pools.get(name)
        if pool is None:
            raise BadRequest(f"token: choose one of {', '.join(sorted(self._pools))}")
        return name, pool

    def _info(self, key: KeyRecord) -> messages.KeyInfo:
        return messages.KeyInfo(
            name=key.name,
            key_type=key.key_type.value,
            digest=key.digest.hex(),
            public_key=key.public_key,
            purposes=labels(key.purposes),
            token=key.token,
            created_at=key.created_at,
            certificate_not_after=self._catalogue.snapshot.certificate_not_after(key.name),
            warnings=list(key.warnings),
        )


def _key_type(name: str) -> KeyType:
    try:
        return KeyType(name)
    except ValueError:
        raise BadRequest(f"key_type: choose one of {', '.join(kind.value for kind in KeyType)}") from None
