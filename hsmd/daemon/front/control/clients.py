"""Handlers of control requests about clients, their credentials, and the user CAs whose certificates they may use."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime

from hsmd.daemon.audit.refusals import RecordRate
from hsmd.daemon.config.settings import ListenConfig
from hsmd.daemon.front.access.credentials import KeyCredential
from hsmd.daemon.front.access.identity import Identity
from hsmd.daemon.front.access.snapshot_cache import SnapshotCache
from hsmd.daemon.front.control.dispatcher import Handler, Settle
from hsmd.daemon.front.ssh.public_key_lines import has_signed, parse_public_key
from hsmd.daemon.store import ClientRecord, CredentialRecord, Page, RevocationRecord, Transaction
from hsmd.errors import BadRequest, Conflict, NotFound, Overloaded, Refused
from hsmd.protocol import key_proofs, messages
from hsmd.protocol.key_proofs import rotation_statement
from hsmd.protocol.messages import Request
from hsmd.protocol.roles import Role, check_roles, in_order
from hsmd.system.pages import fitting

ROTATIONS = 10
ROTATION_RETRY_S = 10.0
"""A client may change its keys this many times at once, and then once in this time: each time every daemon reads the store."""


class ClientHandlers:
    """Adds, renames and removes clients; adds, replaces and revokes credentials; trusts user CAs."""

    def __init__(
        self,
        *,
        cache: SnapshotCache,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        key_rotation: bool = True,
        clock: Callable[[], float] = time.monotonic,
        activity: Callable[[str], tuple[int, datetime | None]] = lambda client: (0, None),
    ) -> None:
        """`activity(client)` returns its connections, and when it was last seen."""
        self._clock = clock
        self._activity = activity
        self._rotations = RecordRate(ROTATIONS, 1 / ROTATION_RETRY_S)
        self._key_rotation = key_rotation
        self._cache = cache
        self._now = now

    def apply(self, config: ListenConfig) -> None:
        """Use this configuration from now on."""
        self._key_rotation = config.client_key_rotation

    def handlers(self) -> dict[type[Request], Handler]:
        """The method that carries out each request."""
        return {
            messages.ClientAdd: self.add,
            messages.ClientList: self.list,
            messages.ClientRemove: self.remove,
            messages.ClientRename: self.rename,
            messages.ClientRoleAdd: self.add_role,
            messages.ClientRoleRemove: self.remove_role,
            messages.ClientRotateKey: self.rotate_key,
            messages.ClientTrustCa: self.trust_ca,
            messages.ClientDistrustCa: self.distrust_ca,
            messages.ClientRevoke: self.revoke_credential,
            messages.ClientRevoked: self.revoked,
        }

    def settlers(self) -> dict[type[Request], Settle]:
        """The method that decides before a request is recorded, for those that any client may make."""
        return {messages.ClientRotateKey: self.settle_rotation}

    async def add(
        self, identity: Identity, request: messages.ClientAdd, deadline: float
    ) -> messages.ClientInfo:
        roles = roles_named(request)
        credential = parse_public_key("public_key", request.public_key) if request.public_key else None
        now = self._now()

        def change(tx: Transaction) -> ClientRecord:
            if not _exists(tx, request.name):
                tx.clients.add(request.name, roles, now, credential)
            elif credential is None:
                raise Conflict(
                    f"name: there is a client called {request.name!r} already; give a key to add to it, or choose another name"
                )
            else:
                tx.clients.check_has(request.name, roles)
                tx.clients.add_credential(request.name, credential)
            return tx.clients.get(request.name)

        return self._described(await self._cache.change(change), {})

    async def list(
        self, identity: Identity, request: messages.ClientList, deadline: float
    ) -> messages.ClientPage:
        now = self._now()

        def read(tx: Transaction) -> tuple[Page[ClientRecord], dict[str, datetime]]:
            page = tx.clients.page(request.after, request.limit)
            return page, tx.enrolments.ends([client.name for client in page.items], now)

        page, invited = await self._cache.read(read)
        described = [self._described(client, invited) for client in page.items]
        return messages.ClientPage(*fitting(described, page.more))

    def _described(self, client: ClientRecord, invited: dict[str, datetime]) -> messages.ClientInfo:
        info = _client(client)
        info.revoked = [
            each for each in info.fingerprints if self._cache.snapshot.identities.is_revoked_key(each)
        ]
        info.connections, info.last_seen = self._activity(client.name)
        info.invited_until = invited.get(client.name)
        return info

    async def remove(
        self, identity: Identity, request: messages.ClientRemove, deadline: float
    ) -> messages.Done:
        if request.name == identity.client:
            raise BadRequest("name: you cannot remove the client you are connected as; use another operator")

        def change(tx: Transaction) -> None:
            _check_is_operator(tx, identity)
            tx.clients.remove(request.name)

        await self._cache.change(change)
        return messages.Done()

    async def add_role(
        self, identity: Identity, request: messages.ClientRoleAdd, deadline: float
    ) -> messages.Done:
        role = _role_named(request.role)
        return messages.Done(await self._cache.change(lambda tx: tx.clients.add_role(request.name, role)))

    async def remove_role(
        self, identity: Identity, request: messages.ClientRoleRemove, deadline: float
    ) -> messages.Done:
        role = _role_named(request.role)
        if request.name == identity.client and role in identity.roles:
            raise BadRequest(
                "name: you cannot remove a role of the client you are connected as; use another operator"
            )

        def change(tx: Transaction) -> bool:
            _check_is_operator(tx, identity)
            return tx.clients.remove_role(request.name, role)

        return messages.Done(await self._cache.change(change))

    async def trust_ca(
        self, identity: Identity, request: messages.ClientTrustCa, deadline: float
    ) -> messages.Done:
        if not request.clients:
            raise BadRequest(
                "clients: name the clients whose certificates you accept from this CA; there is no CA for all clients"
            )
        ca = parse_public_key("public_key", request.public_key)
        await self._cache.change(
            lambda tx: tx.user_cas.trust(
                ca.fingerprint, ca.public_key, request.clients, request.max_lifetime_s
            )
        )
        return messages.Done()

    async def distrust_ca(
        self, identity: Identity, request: messages.ClientDistrustCa, deadline: float
    ) -> messages.Done:
        ca = parse_public_key("public_key", request.public_key)
        await self._cache.change(lambda tx: tx.user_cas.distrust(ca.fingerprint))
        return messages.Done()

    async def rename(
        self, identity: Identity, request: messages.ClientRename, deadline: float
    ) -> messages.Done:
        await self._cache.change(lambda tx: tx.clients.rename(request.name, request.new_name, self._now()))
        return messages.Done()

    async def settle_rotation(
        self, identity: Identity, request: messages.ClientRotateKey
    ) -> messages.Done | None:
        """Decide about a new key before anything is recorded: the result if nothing would change. Raises HsmdError."""
        me, current, successor = (
            identity.client,
            self._rotating_key(identity),
            self._proven(identity, request),
        )
        if successor is None:
            settled = await self._cache.read(lambda tx: tx.rotations.is_finished(me, current))
        else:
            new = successor.fingerprint
            settled = await self._cache.read(lambda tx: tx.rotations.is_begun(me, current, new))
        if settled:
            return messages.Done(changed=False)
        if not self._rotations.take(me, self._clock()):
            raise Overloaded.retry_in(ROTATION_RETRY_S)
        return None

    async def rotate_key(
        self, identity: Identity, request: messages.ClientRotateKey, deadline: float
    ) -> messages.Done:
        me, current, successor = (
            identity.client,
            self._rotating_key(identity),
            self._proven(identity, request),
        )
        if successor is None:
            return messages.Done(
                changed=await self._cache.change(lambda tx: tx.rotations.finish(me, current))
            )
        changed = await self._cache.change(lambda tx: tx.rotations.begin(me, current, successor))
        return messages.Done(changed=changed)

    def _rotating_key(self, identity: Identity) -> str:
        """The fingerprint of the key that a client connected with, and may replace. Raises HsmdError."""
        if not self._key_rotation:
            raise Refused(detail="listen.client_key_rotation is off")
        if not isinstance(identity.credential, KeyCredential):
            raise BadRequest("you logged in with a certificate; have the CA issue one for the next key")
        return identity.credential.fingerprint

    def _proven(self, identity: Identity, request: messages.ClientRotateKey) -> CredentialRecord | None:
        """The next key in a request, if the caller has proven that it has the private key. Raises BadRequest.

        Without proof a client could learn who has a key, and take a key that another one is about to register.
        """
        if not request.public_key:
            return None
        successor = parse_public_key("public_key", request.public_key)
        if not request.proof:
            raise BadRequest(
                "proof: this daemon wants a signature by the new key, which the client's release of hsmd does not make; "
                "upgrade hsmd there, and run `hsmd agent rotate-key` again"
            )
        statement = rotation_statement(identity.client, self._rotating_key(identity), successor.fingerprint)
        if not has_signed(successor, statement, key_proofs.decode(request.proof)):
            raise BadRequest("proof: it is not a signature by this key for this client and its current key")
        return successor

    async def revoke_credential(
        self, identity: Identity, request: messages.ClientRevoke, deadline: float
    ) -> messages.Done:
        revocation = _revocation(request, self._now())
        if revocation.mark in identity.marks:
            raise BadRequest("you cannot revoke the credential of this connection; use another operator")
        return messages.Done(changed=await self._cache.change(lambda tx: tx.revocations.add(revocation)))

    async def revoked(
        self, identity: Identity, request: messages.ClientRevoked, deadline: float
    ) -> messages.RevocationPage:
        page = await self._cache.read(lambda tx: tx.revocations.page(request.after, request.limit))
        revocations = [
            messages.Revocation(each.kind, each.ca_fingerprint, each.value, each.created_at)
            for each in page.items
        ]
        return messages.RevocationPage(*fitting(revocations, page.more))


def roles_named(request: messages.ClientAdd | messages.ClientEnroll) -> frozenset[Role]:
    """The roles in a request that adds a client. Raises BadRequest."""
    roles = frozenset(map(_role_named, request.role_set or [request.role]))
    check_roles(roles)
    first = in_order(roles)[0].value
    if request.role != first:
        raise BadRequest(f"role: it must be the first of the roles, {first}")
    return roles


def _role_named(name: str) -> Role:
    try:
        return Role(name)
    except ValueError:
        raise BadRequest(f"role: choose one of {', '.join(role.value for role in Role)}") from None


def _revocation(request: messages.ClientRevoke, now: datetime) -> RevocationRecord:
    named = {"key": request.fingerprint, "serial": request.serial, "key-id": request.key_id}
    given = [(kind, value) for kind, value in named.items() if value]
    if len(given) != 1:
        raise BadRequest("give exactly one of fingerprint, serial and key_id; serial and key_id also need ca")
    (kind, value) = given[0]
    if (kind == "key") == bool(request.ca):
        raise BadRequest("ca: the fingerprint of the CA goes with serial and key_id, and with nothing else")
    return RevocationRecord(kind, request.ca, value, now)


def _check_is_operator(tx: Transaction, identity: Identity) -> None:
    """Raises Refused if the caller, which the snapshot takes for an operator, is none any more.

    No operator can remove itself, and with this check no two can remove each other: one is always left.
    """
    try:
        held = tx.clients.get(identity.client).roles
    except NotFound:
        held = frozenset()
    if Role.OPERATOR not in held:
        raise Refused(detail="the caller is not an operator any more")


def _exists(tx: Transaction, name: str) -> bool:
    try:
        tx.clients.get(name)
    except NotFound:
        return False
    return True


def _client(client: ClientRecord) -> messages.ClientInfo:
    roles = [role.value for role in in_order(client.roles)]
    return messages.ClientInfo(
        name=client.name,
        role=roles[0] if roles else "",
        fingerprints=[credential.fingerprint for credential in client.credentials],
        created_at=client.created_at,
        roles=roles,
    )
