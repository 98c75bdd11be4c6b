"""Making an authority: its key, the key that will replace it, and its certificate or the request for it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from typing import Protocol

import msgspec
from cryptography import x509

from hsmd.daemon import pki
from hsmd.daemon.front.access.identity import Identity
from hsmd.daemon.front.access.snapshot_cache import SnapshotCache
from hsmd.daemon.front.authorities.authority import BACKDATED, Authority, aware_now, pem, sign
from hsmd.daemon.front.ledger.producers import replace_certificate
from hsmd.daemon.front.signing.service import KeyService
from hsmd.daemon.ipc.worker_messages import KeyDescription
from hsmd.daemon.pki.authority import Issuer, Term, authority_certificate, random_serial
from hsmd.daemon.pki.names import subject
from hsmd.daemon.store import AuthorityRecord, KeyRecord, Transaction
from hsmd.errors import BadRequest, Conflict
from hsmd.protocol.messages import CaInit, KeyAdopt, KeyGenerate
from hsmd.purposes import AuthorityConstraints, NameSet, Purpose
from hsmd.purposes.ceiling_constraints import ConstraintDocuments
from hsmd.purposes.name_constraints import entries_of
from hsmd.system.client_threads import in_thread

_DIGEST_DIGITS = 64
NEXT = "-next"
"""Behind the name of an authority, the label in the token of the key that will replace it."""


class KeyMaker(Protocol):
    """What makes keys in tokens and notes them in the store. Raises HsmdError."""

    def tokens(self) -> Sequence[str]:
        """The names of all tokens."""

    def token_of(self, name: str) -> str:
        """The name of a token; the only one if `name` is empty."""

    async def require_free(self, name: str) -> None:
        """Raises Conflict if a key has this name."""

    async def make_reserve(
        self, name: str, key_type: str, token: str, constraints: ConstraintDocuments, deadline: float
    ) -> KeyDescription:
        """A key that may be adopted for these constraints at most, and that the store does not know."""

    async def destroy_reserve(self, key: str, token: str, deadline: float) -> None:
        """Destroy one of these keys, by its digest in hex."""

    async def make(
        self,
        request: KeyGenerate,
        deadline: float,
        also: Callable[[Transaction], None] = ...,
        constraints: ConstraintDocuments = ...,
    ) -> KeyRecord:
        """A key, put into the store in one transaction with `also`."""

    async def adopt_key(
        self,
        request: KeyAdopt,
        deadline: float,
        also: Callable[[Transaction], None] = ...,
        constraints: ConstraintDocuments = ...,
    ) -> KeyRecord:
        """A key of the token, put into the store in one transaction with `also`."""


class AuthorityMaker:
    """Makes authorities, and their own certificates again."""

    def __init__(
        self,
        *,
        cache: SnapshotCache,
        keys: KeyMaker,
        service: KeyService,
        now: Callable[[], datetime] = aware_now,
    ) -> None:
        self._cache = cache
        self._keys = keys
        self._service = service
        self._now = now

    async def make(self, identity: Identity, request: CaInit, deadline: float) -> tuple[Authority, str]:
        """The authority, and the request for its certificate if another one is to issue it; empty otherwise.

        Raises HsmdError.
        """
        token = self._keys.token_of(request.token)
        next_token = self._next_token(request, token)
        constraints = _constraints(request)
        _check_urls(request.lists_at)
        await self._keys.require_free(request.name)
        reserve = await self._keys.make_reserve(
            request.name[: 64 - len(NEXT)] + NEXT,
            request.key_type,
            next_token,
            _ceiling(constraints),
            deadline,
        )
        constraints = msgspec.structs.replace(
            constraints, next_key=reserve.key, next_elsewhere=next_token != token
        )
        record = AuthorityRecord(
            request.name,
            constraints.to_json(),
            tuple(request.lists_at),
            request.list_s,
            next_token,
            reserve.public_key,
        )
        try:
            await self._make_key(request, token, record, constraints, deadline)
        except (BadRequest, Conflict):
            await self._keys.destroy_reserve(reserve.key, next_token, deadline)
            raise
        authority = await self._cache.read(lambda tx: Authority.read(tx, request.name))
        if request.outside:
            return authority, await self._request(identity, authority, deadline)
        return await self.certify_itself(identity, authority, request.limits.authority_s, deadline), ""

    async def _make_key(
        self,
        request: CaInit,
        token: str,
        record: AuthorityRecord,
        constraints: AuthorityConstraints,
        deadline: float,
    ) -> None:
        """Generate or adopt the authority's key."""

        def add(tx: Transaction) -> None:
            tx.authorities.add(record)

        label, ceiling = Purpose.X509_AUTHORITY.label, _ceiling(constraints)
        if not request.adopt:
            generate = KeyGenerate(request.name, request.key_type, [label], token)
            await self._keys.make(generate, deadline, also=add, constraints=ceiling)
            return
        is_digest = len(request.adopt) == _DIGEST_DIGITS
        adopt = KeyAdopt(
            request.name, [label], token, cka_id="" if is_digest else request.adopt,
            key_digest=request.adopt if is_digest else "",
        )  # fmt: skip
        await self._keys.adopt_key(adopt, deadline, also=add, constraints=ceiling)

    def _next_token(self, request: CaInit, token: str) -> str:
        """Where the key that replaces this one is made: in another token, where there is one.

        A reserve that is adopted now is followed by one in the same token, where it is known what that may be adopted for.
        """
        if request.next_token:
            return self._keys.token_of(request.next_token)
        if request.adopt:
            return token
        return next((name for name in self._keys.tokens() if name != token), token)

    async def certify_itself(
        self, identity: Identity, authority: Authority, seconds: int, deadline: float
    ) -> Authority:
        """Sign and store a certificate of its own for this term. Raises HsmdError."""
        issuer = Issuer.of_key(authority.name, authority.key.public_key, authority.scheme)
        constraints = authority.constraints
        length = timedelta(seconds=min(seconds, constraints.authority_s))
        begins = self._now().replace(microsecond=0) - BACKDATED
        unsigned = await in_thread(
            authority_certificate,
            issuer,
            constraints,
            authority.name,
            authority.key.public_key,
            Term(begins, begins + length),
            random_serial(),
            path_length=constraints.path_length,
            next_key=constraints.next_key,
        )
        signature = await sign(self._service, identity, authority, unsigned.to_be_signed, deadline)
        return await self.store_chain(authority, (await in_thread(unsigned.signed, signature),))

    async def store_chain(self, authority: Authority, chain: tuple[x509.Certificate, ...]) -> Authority:
        """Store its certificate, with those above it."""
        text, own, now = "".join(map(pem, chain)), chain[0], self._now()

        def store(tx: Transaction) -> Authority:
            key = _same_key(tx, authority.key)
            replace_certificate(tx, key, text, own.not_valid_after_utc, now, own.not_valid_before_utc)
            return Authority.read(tx, key.name)

        found: Authority = await self._cache.change(store)
        return found

    async def _request(self, identity: Identity, authority: Authority, deadline: float) -> str:
        common_name = str(next(iter(authority.name)).value)
        unsigned = pki.certificate_request(authority.key.public_key, authority.scheme, common_name)
        return unsigned.signed_pem(
            await sign(self._service, identity, authority, unsigned.to_be_signed, deadline)
        )


def _ceiling(constraints: AuthorityConstraints) -> ConstraintDocuments:
    return {Purpose.X509_AUTHORITY: constraints.document()}


def _same_key(tx: Transaction, key: KeyRecord) -> KeyRecord:
    found = tx.keys.get(key.name)
    if found.digest != key.digest:
        raise Conflict(f"the key {key.name} is another one now; try again")
    return found


def _constraints(request: CaInit) -> AuthorityConstraints:
    """Those of a request, without a next key yet. Raises BadRequest naming the member."""
    limits = request.limits
    if not request.common_name:
        raise BadRequest("common_name: give the name that the authority has in certificates")
    if "issuing" in limits.profiles:
        raise BadRequest(
            "profiles: an authority certifies others if its path length is 1 or more; leave `issuing` out"
        )
    permitted = NameSet.of("permitted", limits.permitted_dns, limits.permitted_ip, limits.permitted_email)
    if limits.profiles and not (*entries_of(permitted), *limits.common_names):
        raise BadRequest(
            "permitted_dns: give the names that the authority may certify, for example example.com"
        )
    return AuthorityConstraints.of(
        name=subject(request.common_name, ""),
        profiles=limits.profiles,
        permitted=permitted,
        excluded=NameSet.of("excluded", limits.excluded_dns, limits.excluded_ip, limits.excluded_email),
        common_names=limits.common_names,
        path_length=limits.path_length,
        leaf_s=limits.leaf_s,
        authority_s=limits.authority_s,
    )


def _check_urls(urls: list[str]) -> None:
    for url in urls:
        if not (url.isascii() and url.isprintable() and url.startswith("http://")) or " " in url:
            raise BadRequest(
                f"lists_at: {url[:60]!a} is not an http:// URL; verifiers fetch revocation lists without TLS"
            )
