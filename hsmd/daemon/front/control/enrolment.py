"""Enrolment: one-time tokens that operators request, and their use by new clients (docs/protocol.md, section 8).

A peer that presents a token is not authenticated yet. Every refusal looks the same and takes the same time, tokens are checked
one at a time, and refusals beyond a rate are counted instead of recorded one by one, so that no peer can fill the disk.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import secrets
import time
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime, timedelta
from hashlib import sha256

from hsmd import observe
from hsmd.daemon.audit.log import AuditLog
from hsmd.daemon.audit.refusals import REFUSALS_EVENT, RefusalMeter
from hsmd.daemon.front.access.identity import Identity
from hsmd.daemon.front.access.snapshot_cache import SnapshotCache
from hsmd.daemon.front.control.clients import roles_named
from hsmd.daemon.front.control.dispatcher import Handler
from hsmd.daemon.front.ledger.producers import client_enrolled
from hsmd.daemon.front.ssh.public_key_lines import parse_public_key
from hsmd.daemon.store import ClientRecord, CredentialRecord, EnrolmentRecord, Transaction
from hsmd.errors import AuditFailure, BadRequest, HsmdError, NotFound
from hsmd.protocol import messages
from hsmd.protocol.enrolment import (
    ID_BYTES,
    SECRET_BYTES,
    USER,
    EnrolmentAnswer,
    EnrolmentToken,
    decode_question,
    encode,
    parse_password,
)
from hsmd.protocol.messages import Request
from hsmd.protocol.roles import Role, in_order
from hsmd.purposes import expand

LIFETIME = timedelta(minutes=15)
TRY_S = 0.25
"""Duration of one check, whether the token is valid or not. The next check begins after it."""
REFUSALS_AT_ONCE = 20
REFUSALS_PER_S = 0.1
"""Refusals that get a record of their own: in a burst, and per second in the long run, of all peers together."""

log = observe.logger()
Pins = Callable[[frozenset[Role]], tuple[Sequence[str], Sequence[str]]]
"""For roles: (addresses to enrol at, host key lines to pin there; the line of a host CA begins with `cert-authority `)."""


class EnrolmentHandlers:
    """Issues tokens, checks them, and registers the keys of new clients."""

    def __init__(
        self,
        *,
        cache: SnapshotCache,
        audit: AuditLog,
        pins: Pins,
        statement_keys: Callable[[], Awaitable[Sequence[str]]],
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._cache = cache
        self._audit = audit
        self._pins = pins
        self._statement_keys = statement_keys
        self._now = now
        self._one_at_a_time = asyncio.Lock()
        self._refusals = RefusalMeter(REFUSALS_AT_ONCE, REFUSALS_PER_S)

    def handlers(self) -> dict[type[Request], Handler]:
        """The method that carries out each request."""
        return {messages.ClientEnroll: self.issue}

    async def issue(
        self, identity: Identity, request: messages.ClientEnroll, deadline: float
    ) -> messages.EnrolmentTicket:
        """Make a token for a client; add the client if it does not exist, and the requested grants."""
        roles = roles_named(request)
        grants = [(grant.key, expand(grant.purposes)) for grant in request.grants]
        now = self._now()
        token = self._token(request.address, roles)
        record = EnrolmentRecord(token.id.hex(), request.name, sha256(token.secret).digest(), now + LIFETIME)

        def invite(tx: Transaction) -> None:
            tx.clients.ensure(record.client, roles, now)
            for key, purposes in grants:
                tx.grants.add(record.client, key, purposes)
            tx.enrolments.add(record, now)

        await self._cache.change(invite)
        return messages.EnrolmentTicket(
            token=token.text(), address=token.address, expires_at=record.expires_at
        )

    def _token(self, address: str, roles: frozenset[Role]) -> EnrolmentToken:
        addresses, keys = self._pins(roles)
        chosen = address or addresses[0]
        if not address and chosen.startswith(("0.0.0.0:", "[::]:")):
            raise BadRequest(
                "address: the daemon listens on every network; give the address at which the new client reaches it"
            )
        prefix, _, blob = keys[0].rpartition(" ")
        return EnrolmentToken(
            secrets.token_bytes(ID_BYTES),
            secrets.token_bytes(SECRET_BYTES),
            _pin(blob),
            prefix.startswith("cert-authority"),
            chosen,
        )

    # --- for peers that present a token ---

    async def admit(self, password: str, address: str, roles: frozenset[Role]) -> bool:
        """Whether the password proves a token that may be used now at an address that admits these roles."""
        async with self._one_at_a_time:
            ends = time.monotonic() + TRY_S
            good = await self._check(password, roles)
            await asyncio.sleep(max(0.0, ends - time.monotonic()))
        if not good:
            self._note_refusal(address, time.monotonic())
        return good

    def _note_refusal(self, address: str, now: float) -> None:
        if not self._refusals.admit(USER, now):
            return
        # The peer is refused in any case, and the front process reports that the log cannot be written.
        with contextlib.suppress(AuditFailure):
            for count in self._refusals.due(now).values():
                self._audit.event(REFUSALS_EVENT, USER, count=count)
            self._audit.event("enrolment.refused", "", address=address)
            self._audit.commit()

    async def _check(self, password: str, roles: frozenset[Role]) -> bool:
        proof = parse_password(password)
        if proof is None:
            return False
        try:
            return await self._cache.change_unversioned(
                lambda tx: tx.enrolments.check(*proof, self._now(), roles)
            )
        except HsmdError as error:
            log.error("enrolment.not_checked", reason=error.detail or error.text)
            return False

    async def answer(self, password: str, line: bytes, address: str) -> bytes:
        """Register the public key in the peer's line; return the line to send back."""
        try:
            proof = parse_password(password)
            assert proof is not None, "admit() has checked the password"
            credential = parse_public_key("public_key", decode_question(line).public_key)
            self._audit.event("enrolment.begun", "", address=address, fingerprint=credential.fingerprint)
            await self._audit.commit_durable()
            client = await self._cache.change(lambda tx: _use(tx, proof, credential, self._now()))
            self._audit.event(
                "enrolment.done", client.name, address=address, fingerprint=credential.fingerprint
            )
            await self._audit.commit_durable()
            operators = await self._cache.read(_operator_keys)
            statement_keys = await self._statement_keys()
        except NotFound:
            return encode(EnrolmentAnswer(error="the token cannot be used any more"))
        except HsmdError as error:
            log.warning("enrolment.failed", address=address, reason=error.text)
            return encode(EnrolmentAnswer(error=error.text))
        log.info("enrolment.done", client=client.name, address=address, fingerprint=credential.fingerprint)
        host_keys = list(self._pins(client.roles)[1])
        roles = [role.value for role in in_order(client.roles)]
        return encode(
            EnrolmentAnswer(
                client.name,
                roles[0],
                host_keys,
                operators,
                roles=roles,
                statement_keys=list(statement_keys),
            )
        )


def _use(
    tx: Transaction, proof: tuple[str, bytes], credential: CredentialRecord, now: datetime
) -> ClientRecord:
    client = tx.enrolments.use(*proof, credential, now)
    client_enrolled(tx, client, credential.fingerprint, now)
    return client


def _operator_keys(tx: Transaction) -> list[str]:
    """The Ed25519 public keys of operators, which may sign declarations about the audit log."""
    return [
        credential.public_key
        for client in tx.clients.with_role(Role.OPERATOR)
        for credential in client.credentials
        if credential.public_key.startswith("ssh-ed25519 ")
        and not tx.revocations.holds_key(credential.fingerprint)
    ]


def _pin(blob: str) -> bytes:
    return sha256(base64.b64decode(blob)).digest()
