"""Handlers of control requests about keys: generate, adopt, list, rename, destroy, history, readers."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime

import msgspec
from cryptography.hazmat.primitives.serialization import load_der_public_key

from hsmd.algorithms import KeyType, key_type_of
from hsmd.daemon import pki
from hsmd.daemon.front.access.identity import DAEMON, Identity
from hsmd.daemon.front.access.snapshot import Snapshot
from hsmd.daemon.front.access.snapshot_cache import SnapshotCache
from hsmd.daemon.front.control.dispatcher import Handler
from hsmd.daemon.front.control.key_candidates import key_candidate
from hsmd.daemon.front.tokens.pool import TokenPool
from hsmd.daemon.ipc import worker_messages
from hsmd.daemon.store.names import unknown
from hsmd.daemon.store.records import KeyOwner, KeyRecord, Page, PastKey, ReplacementRecord
from hsmd.daemon.store.transaction import Transaction
from hsmd.errors import BadRequest, Conflict
from hsmd.protocol import messages
from hsmd.protocol.messages import Request
from hsmd.purposes import Purpose, check_ceiling, expand, labels, with_daemon_purposes
from hsmd.purposes.ceiling_constraints import NO_CONSTRAINTS, ConstraintDocuments as Constraints
from hsmd.system.pages import MAX_PAGE_BYTES, fitting

CHECKPOINT_KEY, STATEMENT_KEY = "hsmd-checkpoint", "hsmd-statement"
"""Names of the keys with which the daemons of one store sign checkpoints and statements."""
PAGE_S = 5.0
"""With less time than this left, an answer ends with what there is: the caller asks for the next one."""
ANSWER_BYTES = 400_000
"""An answer with candidates ends after the page of the control worker that goes beyond this; see `MAX_ANSWER_LENGTH`."""
_CKA_ID = re.compile(r"([0-9a-fA-F]{2}){0,64}")
_EDWARDS = {"EDDSA", "EC_EDWARDS_KEY_PAIR_GEN"}
"""Mechanisms that a token needs for Ed25519 (PKCS #11 3.0, section 6.3.15)."""

MAX_UNPAGED = MAX_PAGE_BYTES // len('{"key":"k","client":"c"}')
"""More readers than that do not fit into the answer that clients of earlier releases ask for."""


class KeyHandlers:
    """Makes keys in tokens and destroys them; the store knows their names, grants, owners and readers."""

    def __init__(
        self,
        *,
        cache: SnapshotCache,
        pools: Mapping[str, TokenPool],
        clock: Callable[[], float],
        certificate_state: Callable[[str], str],
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        """`certificate_state` tells how the certificate of the key of a name stands (CertificateEnds.state)."""
        self._cache = cache
        self._certificate_state = certificate_state
        self._pools = pools
        self._clock = clock
        self._now = now
        self._making = asyncio.Lock()
        """Held from the check that a name is free until its key is in the store; the token takes a while to make it."""

    def handlers(self) -> dict[type[Request], Handler]:
        """The method that carries out each request."""
        return {
            messages.KeyGenerate: self.generate,
            messages.KeyCandidates: self.candidates,
            messages.KeyAdopt: self.adopt,
            messages.KeyList: self.list,
            messages.KeyShow: self.show,
            messages.KeyDestroy: self.destroy,
            messages.KeyRename: self.rename,
            messages.KeyHistory: self.history,
            messages.KeyOwnerAdd: self.add_owner,
            messages.KeyOwnerRemove: self.remove_owner,
            messages.KeyOwnerList: self.list_owners,
        }

    async def generate(
        self, identity: Identity, request: messages.KeyGenerate, deadline: float
    ) -> messages.KeyInfo:
        return self.info(await self.make(request, deadline))

    async def make(
        self,
        request: messages.KeyGenerate,
        deadline: float,
        also: Callable[[Transaction], None] = lambda _: None,
        constraints: Constraints = NO_CONSTRAINTS,
    ) -> KeyRecord:
        """Make the key with these constraints in its ceiling, and put it into the store in one transaction with `also`."""
        key_type = _key_type(request.key_type)
        purposes = with_daemon_purposes(expand(request.purposes))
        check_ceiling(key_type, purposes)
        token, pool = self._token(request.token)
        generate = worker_messages.Generate(
            name=request.name,
            key_type=key_type.value,
            purposes=labels(purposes),
            constraints={purpose.label: dict(document) for purpose, document in constraints.items()},
        )
        async with self._making:
            await self._require_free(request.name, request.owner)
            made = await pool.control(generate, deadline - self._clock())
            try:
                return await self._register(request.name, token, made, request.owner, also=also)
            except Conflict:
                # Another daemon took the name, or the owner was removed meanwhile. No client knows this key, so none has used it.
                await pool.control(worker_messages.Destroy(key=made.key), deadline - self._clock())
                raise

    async def make_reserve(
        self, name: str, key_type: str, token: str, constraints: Constraints, deadline: float
    ) -> worker_messages.KeyDescription:
        """Make a key that is not served until it is adopted, for these constraints at most. The store does not know it."""
        _, pool = self._token(token)
        generate = worker_messages.Generate(
            name=name,
            key_type=_key_type(key_type).value,
            purposes=labels(frozenset(constraints)),
            constraints={purpose.label: dict(document) for purpose, document in constraints.items()},
            reserve=True,
        )
        made: worker_messages.KeyDescription = await pool.control(generate, deadline - self._clock())
        return made

    async def destroy_reserve(self, key: str, token: str, deadline: float) -> None:
        """Destroy a key that was made as a reserve and belongs to no authority: `key` is its digest in hex."""
        _, pool = self._token(token)
        await pool.control(worker_messages.Destroy(key=key), deadline - self._clock())

    def tokens(self) -> Sequence[str]:
        """The names of all tokens."""
        return list(self._pools)

    def token_of(self, name: str) -> str:
        """The name of a token; the only one if `name` is empty. Raises BadRequest if there is no such token, or several."""
        return self._token(name)[0]

    async def require_free(self, name: str) -> None:
        """Raises Conflict if a key has this name."""
        await self._require_free(name, "")

    async def generate_checkpoint_key(self, deadline: float) -> None:
        """Make the key that signs checkpoints of the audit log, in the first token. Raises HsmdError if there is one already."""
        await self._generate_daemon_key(CHECKPOINT_KEY, Purpose.CHECKPOINT, deadline)

    async def generate_statement_key(self, deadline: float) -> None:
        """Make the key that signs statements, in the first token. Raises HsmdError if there is one already."""
        await self._generate_daemon_key(STATEMENT_KEY, Purpose.STATEMENT, deadline)

    async def _generate_daemon_key(self, name: str, purpose: Purpose, deadline: float) -> None:
        token = next(iter(self._pools))
        abilities = self._pools[token].status().abilities
        key_type = KeyType.ED25519 if set(abilities) >= _EDWARDS else KeyType.P256
        request = messages.KeyGenerate(
            name=name, key_type=key_type.value, purposes=[purpose.label], token=token
        )
        await self.generate(DAEMON, request, deadline)

    async def candidates(
        self, identity: Identity, request: messages.KeyCandidates, deadline: float
    ) -> messages.KeyCandidateList:
        token, pool = self._token(request.token)
        answer = messages.KeyCandidateList(token=token, keys=[], cursor=request.cursor)
        room = ANSWER_BYTES
        while room > 0:
            # Those that the worker serves too: the store may not list all of them.
            wanted = worker_messages.Candidates(served=True, cursor=answer.cursor)
            page = await pool.control(wanted, deadline - self._clock())
            found = [key_candidate(each, self._record_of(each.key), token) for each in page.keys]
            keys = [each for each in found if request.served or each.finding != "served"]
            answer.keys += keys
            answer.cursor = page.cursor
            room -= len(msgspec.json.encode(keys))
            if not page.cursor or deadline - self._clock() < PAGE_S:
                break
        return answer

    def _record_of(self, digest: str) -> KeyRecord | None:
        return self._cache.snapshot.key_with(bytes.fromhex(digest))

    async def adopt(
        self, identity: Identity, request: messages.KeyAdopt, deadline: float
    ) -> messages.KeyInfo:
        return self.info(await self.adopt_key(request, deadline))

    async def adopt_key(
        self,
        request: messages.KeyAdopt,
        deadline: float,
        also: Callable[[Transaction], None] = lambda _: None,
        constraints: Constraints = NO_CONSTRAINTS,
    ) -> KeyRecord:
        """Serve a key of the token with these constraints in its ceiling, and put it into the store, with `also`."""
        purposes = (
            with_daemon_purposes(expand(request.purposes)) if request.purposes else frozenset[Purpose]()
        )
        if not (request.cka_id or request.cka_label or request.key_digest or request.certificate):
            raise BadRequest("cka_id: name the key by its CKA_ID in hex, or by its CKA_LABEL")
        if not _CKA_ID.fullmatch(request.cka_id):
            raise BadRequest(
                f"cka_id: {request.cka_id[:64]!r} is not hexadecimal; `hsmd key candidates` shows the CKA_ID of each key"
            )
        if request.certificate:
            pki.refuse_pss(request.certificate)
        token, pool = self._token(request.token)
        adopt = worker_messages.Adopt(
            name=request.name,
            purposes=labels(purposes),
            cka_id=request.cka_id,
            cka_label=request.cka_label,
            key=request.key_digest,
            certificate=request.certificate,
            accept_unsafe=request.accept_unsafe,
            constraints={purpose.label: dict(document) for purpose, document in constraints.items()},
        )
        async with self._making:
            await self._require_free(request.name, request.owner)
            adopted = await pool.control(adopt, deadline - self._clock())
            return await self._register(request.name, token, adopted, request.owner, request.weaknesses, also)

    async def list(self, identity: Identity, request: messages.KeyList, deadline: float) -> messages.KeyPage:
        digests = self._cache.snapshot.keys_for(identity, type(request), self._now())

        def read(tx: Transaction) -> tuple[Page[KeyRecord], dict[int, ReplacementRecord]]:
            page = tx.keys.page(request.after, request.limit, digests)
            return page, tx.replacements.of_keys([key.row for key in page.items])

        page, replacements = await self._cache.read(read)
        return messages.KeyPage(
            *fitting([self.info(key, replacements.get(key.row)) for key in page.items], page.more)
        )

    async def show(self, identity: Identity, request: messages.KeyShow, deadline: float) -> messages.KeyInfo:
        key = await visible_key(self._cache, identity, request, request.name, self._now())
        replacements = await self._cache.read(lambda tx: tx.replacements.of_keys([key.row]))
        return self.info(key, replacements.get(key.row))

    async def destroy(
        self, identity: Identity, request: messages.KeyDestroy, deadline: float
    ) -> messages.Done:
        if request.confirm != request.name:
            raise BadRequest(f"confirm: repeat the key's name, {request.name!r}, to destroy it permanently")
        key = await self._cache.read(lambda tx: tx.keys.get(request.name))
        _, pool = self._token(key.token)
        # In the token first: if the store fails then, the operator can repeat the request, because a worker accepts that the
        # key is gone already.
        await pool.control(worker_messages.Destroy(key=key.digest.hex()), deadline - self._clock())
        await self._cache.change(lambda tx: tx.keys.remove(request.name, self._now()))
        return messages.Done()

    async def rename(self, identity: Identity, request: messages.KeyRename, deadline: float) -> messages.Done:
        await self._cache.change(lambda tx: tx.keys.rename(request.name, request.new_name, self._now()))
        return messages.Done()

    async def history(
        self, identity: Identity, request: messages.KeyHistory, deadline: float
    ) -> messages.KeyHistoryPage:
        owner = identity.client if identity.roles.isdisjoint(request.any_key) else ""
        page = await self._cache.read(lambda tx: tx.history.page(request.after, request.limit, owner))
        return messages.KeyHistoryPage(*fitting([_past_key(key) for key in page.items], page.more))

    # Readers were called owners when these requests were named.

    async def add_owner(
        self, identity: Identity, request: messages.KeyOwnerAdd, deadline: float
    ) -> messages.Done:
        changed = await self._cache.change(lambda tx: tx.readers.add(request.key, request.client))
        return messages.Done(changed)

    async def remove_owner(
        self, identity: Identity, request: messages.KeyOwnerRemove, deadline: float
    ) -> messages.Done:
        changed = await self._cache.change(lambda tx: tx.readers.remove(request.key, request.client))
        return messages.Done(changed)

    async def list_owners(
        self, identity: Identity, request: messages.KeyOwnerList, deadline: float
    ) -> messages.KeyOwners:
        limit = request.limit or MAX_UNPAGED
        page = await self._cache.read(lambda tx: tx.readers.page(request.after, limit))
        readers = [messages.KeyOwner(each.key, each.client) for each in page.items]
        owners, more = fitting(readers, page.more)
        if more and not request.limit:
            raise BadRequest(
                "limit: the list is too long for one answer; install a newer hsmd, which asks for pages"
            )
        return messages.KeyOwners(owners, more)

    async def _require_free(self, name: str, owner: str) -> None:
        """Check before the token is asked what the store will check: that the name is free and the owner can own keys."""
        await self._cache.read(lambda tx: _check_is_free(tx, name, owner))

    async def _register(
        self,
        name: str,
        token: str,
        made: worker_messages.KeyDescription,
        owner: str,
        warnings: Sequence[str] = (),
        also: Callable[[Transaction], None] = lambda _: None,
    ) -> KeyRecord:
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
            warnings=(*made.warnings, *warnings),
            owner=KeyOwner(owner) if owner else None,
        )

        def add(tx: Transaction) -> None:
            tx.keys.add(record)
            also(tx)

        await self._cache.change(add)
        return record

    def info(self, key: KeyRecord, replacement: ReplacementRecord | None = None) -> messages.KeyInfo:
        """What control results say of a key."""
        return key_info(key, self._cache.snapshot, self._certificate_state(key.name), replacement)

    def _token(self, name: str) -> tuple[str, TokenPool]:
        if not name and len(self._pools) == 1:
            name = next(iter(self._pools))
        pool = self._pools.get(name)
        if pool is None:
            problem = f"there is no token {name[:64]!r}" if name else "the daemon has several tokens"
            raise BadRequest(f"token: {problem}; choose one of {', '.join(sorted(self._pools))}")
        return name, pool


def key_info(
    key: KeyRecord,
    snapshot: Snapshot,
    certificate_state: str,
    replacement: ReplacementRecord | None = None,
) -> messages.KeyInfo:
    """What control results say of a key."""
    return messages.KeyInfo(
        name=key.name,
        key_type=key.key_type.value,
        digest=key.digest.hex(),
        public_key=key.public_key,
        purposes=labels(key.purposes),
        token=key.token,
        created_at=key.created_at,
        certificate_not_after=snapshot.certificate_not_after(key.name),
        warnings=list(key.warnings),
        owner=key.owner.name if key.owner else "",
        owner_removed=key.owner is not None and key.owner.removed,
        certificate_mark=snapshot.certificate_mark(key.name),
        certificate_state=certificate_state,
        replacement=None
        if replacement is None
        else messages.KeyReplacement(
            replacement.key, replacement.successor, replacement.begun_at, replacement.switched_at
        ),
    )


def _past_key(key: PastKey) -> messages.PastKey:
    return messages.PastKey(
        number=key.id,
        digest=key.digest.hex(),
        owner=key.owner.name if key.owner else "",
        owner_removed=key.owner is not None and key.owner.removed,
        made_at=key.made_at,
        destroyed_at=key.destroyed_at,
        names=[messages.KeyNameSpan(each.name, each.since, each.until) for each in key.names],
    )


def _check_is_free(tx: Transaction, name: str, owner: str) -> None:
    if owner:
        tx.keys.check_owner(owner)
    tx.keys.check_is_free(name)


async def visible_key(
    cache: SnapshotCache, identity: Identity, request: Request, name: str, now: datetime
) -> KeyRecord:
    """A key that the caller may name in this request. Raises NotFound, also for a key that exists and that it may not name."""
    key = await cache.read(lambda tx: tx.keys.get(name))
    visible = cache.snapshot.keys_for(identity, type(request), now)
    if visible is not None and key.digest not in visible:
        raise unknown("key", name)
    return key


def _key_type(name: str) -> KeyType:
    try:
        return KeyType(name)
    except ValueError:
        raise BadRequest(f"key_type: choose one of {', '.join(kind.value for kind in KeyType)}") from None
