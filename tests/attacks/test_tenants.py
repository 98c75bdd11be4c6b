"""A4: check, attack, check again - for every operation and every way to authenticate; and a separate address for operators."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import asyncssh
import pytest

from hsmd.client import Connection
from hsmd.client.enrolment import enrol
from hsmd.errors import Refused, RefusedHere, Unavailable
from hsmd.protocol import messages
from hsmd.protocol.enrolment import EnrolmentToken
from hsmd.protocol.frames import Kind
from hsmd.protocol.messages import Request
from hsmd.purposes import Purpose
from tests.support.daemon import AUDITOR, MAIL, OPERATOR, WEB, Daemon, public_line, run_aside
from tests.support.requests import minimal
from tests.support.ssh_peer import assert_cut_off, certificate, ssh, wire
from tests.support.tls_bytes import P256, TLS13

pytestmark = pytest.mark.timeout(120)
VICTIM, THIEF = "victim", "thief"
FOR_OPERATORS = [
    each
    for each in messages.REQUESTS
    if each.changes and each not in (messages.ClientRotateKey, messages.CertificateReport)
]
CERTIFIED = {VICTIM: "victim-c", THIEF: "thief-c"}


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Two tenants with a token key each; each is a client with an SSH key and one with certificates of a CA of its own."""
    from tests.support.daemon import running_daemon

    with running_daemon(tmp_path_factory.mktemp("tenants") / "daemon") as built:
        built.cas = {}
        for tenant in (VICTIM, THIEF):
            built.keys[tenant] = asyncssh.generate_private_key("ssh-ed25519")
            built.cas[tenant] = asyncssh.generate_private_key("ssh-ed25519")
            built.ask(messages.ClientAdd(tenant, "front-end", public_line(built.keys[tenant])))
            built.ask(messages.ClientAdd(CERTIFIED[tenant]))
            built.ask(messages.ClientTrustCa(public_line(built.cas[tenant]), [CERTIFIED[tenant]]))
        built.digests = {
            tenant: built.add_key(f"key-of-{tenant}", grant_to=(tenant, CERTIFIED[tenant]))
            for tenant in (VICTIM, THIEF)
        }
        yield built


def proof(daemon: Daemon, tenant: str, how: str) -> tuple[str, Any]:
    """(user name, credential)."""
    if how == "key":
        return tenant, daemon.keys[tenant]
    key = asyncssh.generate_private_key("ssh-ed25519")
    algorithm, blob = certificate(daemon.cas[tenant], key, [CERTIFIED[tenant]])  # type: ignore[attr-defined]
    return CERTIFIED[tenant], (key, asyncssh.import_certificate(algorithm + b" " + base64.b64encode(blob)))


async def use(channel: Any, number: int, daemon: Daemon, tenant: str) -> bool:
    kind, _ = await channel.use(number, daemon.digests[tenant])  # type: ignore[attr-defined]
    return bool(kind == Kind.RESULT)


async def ask(channel: Any, number: int, request: Request) -> bytes:
    """The result, empty if the request is refused."""
    kind, body = await channel.control(number, request)
    return bytes(body) if kind == Kind.CONTROL_RESULT else b""


async def show(channel: Any, number: int, daemon: Daemon, tenant: str) -> bool:
    return bool(await ask(channel, number, messages.KeyShow(f"key-of-{tenant}")))


async def listed(channel: Any, number: int, daemon: Daemon, tenant: str) -> bool:
    document = json.loads(await ask(channel, number, messages.KeyList()))
    return f"key-of-{tenant}" in [key["name"] for key in document["keys"]]


OPERATIONS: dict[str, Callable[[Any, int, Daemon, str], Any]] = {"use": use, "show": show, "list": listed}


@pytest.mark.parametrize("thief", ["key", "certificate"])
@pytest.mark.parametrize("victim", ["key", "certificate"])
@pytest.mark.parametrize("name", OPERATIONS)
async def test_a_client_cannot_act_as_another(daemon: Daemon, name: str, victim: str, thief: str) -> None:
    """The victim can act; the thief cannot, under any name; and the victim still can."""
    act = OPERATIONS[name]
    user, proven = proof(daemon, VICTIM, victim)
    own, stolen = proof(daemon, THIEF, thief)
    async with await ssh(daemon, user, proven) as connection, await ssh(daemon, own, stolen) as attacker:
        good, bad = await wire(connection), await wire(attacker)
        assert await act(good, 1, daemon, VICTIM)
        assert await act(bad, 1, daemon, THIEF)
        for number in (2, 3, 4):
            assert not await act(bad, number, daemon, VICTIM)
        for name_tried in (user, user.upper(), f"{user} ", f"{user}\u200b", "*"):
            with pytest.raises((asyncssh.PermissionDenied, asyncssh.ConnectionLost, ValueError)):
                await ssh(daemon, name_tried, stolen)
        assert await act(bad, 5, daemon, THIEF)
        assert await act(good, 2, daemon, VICTIM)


@pytest.mark.parametrize("client", [VICTIM, AUDITOR])
@pytest.mark.parametrize("request_type", FOR_OPERATORS, ids=lambda each: each.__struct_config__.tag)
def test_only_operators_change_anything(daemon: Daemon, request_type: type[Request], client: str) -> None:
    """Every request that changes something is refused to any other role, before its members are checked.

    Owners change what is theirs in the vault; neither of these clients is one.
    """
    values: dict[str, Any] = {
        "name": "key-of-thief", "new_name": "mine", "confirm": "key-of-thief", "client": THIEF, "key": "key-of-thief",
        "purposes": ["tls-server"], "clients": [THIEF], "public_key": public_line(daemon.keys[WEB]), "key_type": "p-256",
        "ca": "", "serial": "", "fingerprint": daemon.keys[THIEF].get_fingerprint(), "role": "front-end", "chain": "x",
        "dns_names": ["x"], "subject": "CN=x", "token": "main", "note": "x", "days": 1, "dns": ["x"], "common_name": "x",
        "reason": "x",
    }  # fmt: skip
    request = minimal(request_type)
    for name in set(request_type.__struct_fields__) & set(values):
        setattr(request, name, values[name])
    daemon.keys.setdefault(client, daemon.keys[VICTIM])
    (daemon.directory / VICTIM).touch(mode=0o600)
    daemon.keys[VICTIM].write_private_key(daemon.directory / VICTIM)
    with pytest.raises(Refused):
        daemon.ask(request, client)


# --- withdrawn while connected ---


async def withdrawn(daemon: Daemon, user: str, proven: Any, how: Request) -> None:
    """Connect and sign; withdraw the credential as an operator; no more signatures, and the connection is closed."""
    async with daemon.connection(OPERATOR) as operator:
        connection = await ssh(daemon, user, proven)
        channel = await wire(connection)
        digest = daemon.digests["web"]  # type: ignore[attr-defined]
        assert (await channel.use(1, digest))[0] == Kind.RESULT
        await operator.control(how, timeout_s=10)
        await assert_cut_off(connection, channel, digest)
        with pytest.raises(asyncssh.PermissionDenied):
            await ssh(daemon, user, proven)


WITHDRAWALS: dict[str, Callable[[Any, Any], Request]] = {
    "serial": lambda ca, key: messages.ClientRevoke(ca=ca.get_fingerprint(), serial="7"),
    "key id": lambda ca, key: messages.ClientRevoke(ca=ca.get_fingerprint(), key_id="id"),
    "certified key": lambda ca, key: messages.ClientRevoke(fingerprint=key.get_fingerprint()),
    "key of the CA": lambda ca, key: messages.ClientRevoke(fingerprint=ca.get_fingerprint()),
    "CA distrusted": lambda ca, key: messages.ClientDistrustCa(public_line(ca)),
    "client renamed": lambda ca, key: messages.ClientRename("brief-c", "renamed-c"),
    "client removed": lambda ca, key: messages.ClientRemove("brief-c"),
}


@pytest.mark.parametrize("how", WITHDRAWALS)
async def test_a_withdrawn_certificate_is_disconnected(daemon: Daemon, how: str) -> None:
    if "web" not in daemon.digests:  # type: ignore[attr-defined]
        daemon.digests["web"] = daemon.add_key("web")  # type: ignore[attr-defined]
    ca, key = (asyncssh.generate_private_key("ssh-ed25519") for _ in range(2))
    async with daemon.connection(OPERATOR) as operator:
        await operator.control(messages.ClientAdd("brief-c"), timeout_s=10)
        await operator.control(messages.ClientTrustCa(public_line(ca), ["brief-c"]), timeout_s=10)
        await operator.control(messages.GrantAdd("brief-c", "web", ["tls-server"]), timeout_s=10)
        algorithm, blob = certificate(ca, key, ["brief-c"])
        pair = (key, asyncssh.import_certificate(algorithm + b" " + base64.b64encode(blob)))
        await withdrawn(daemon, "brief-c", pair, WITHDRAWALS[how](ca, key))
        for name in ("brief-c", "renamed-c"):
            try:
                await operator.control(messages.ClientRemove(name), timeout_s=10)
            except Exception:
                continue


# --- a separate address for operators ---


def test_roles_are_accepted_only_on_their_addresses(open_daemon: Callable[..., Daemon]) -> None:
    daemon = open_daemon()
    daemon.write('operator_addresses = ["127.0.0.2:0"]')
    assert daemon.reload() == "done"
    status = daemon.logged("reload.done")[-1]["address"]
    apart = int(status.rpartition(":")[2])
    there: dict[str, Any] = {"host": "127.0.0.2", "port": apart}

    async def identity_of(client: str, **address: Any) -> str:
        async with Connection(daemon.endpoint(client, **address)) as connection:
            answer: messages.Identity = await connection.control(messages.WhoAmI(), timeout_s=5)
            return answer.client

    for client, address in ((WEB, {}), (MAIL, {}), (OPERATOR, there), (AUDITOR, there)):
        assert run_aside(lambda c=client, p=address: identity_of(c, **p)) == client  # type: ignore[misc]
    for client, address in ((WEB, there), (MAIL, there), (OPERATOR, {}), (AUDITOR, {})):
        with pytest.raises(Unavailable, match="does not accept the identity"):
            run_aside(lambda c=client, p=address: identity_of(c, **p))  # type: ignore[misc]
    ticket = run_aside(lambda: _ticket(daemon, there, messages.ClientEnroll("ann", role="operator")))
    assert ticket.address == f"127.0.0.2:{apart}"
    token = EnrolmentToken.parse(ticket.token)
    host, port = daemon.address
    elsewhere = replace(token, address=f"{host}:{port}")
    mine = public_line(asyncssh.generate_private_key("ssh-ed25519"))
    with pytest.raises(
        RefusedHere
    ):  # a token for an operator does not work on the front ends' address either
        run_aside(lambda: enrol(elsewhere, mine))
    assert run_aside(lambda: enrol(token, mine)).client == "ann"
    daemon.write()
    assert daemon.reload() == "done"
    assert run_aside(lambda: identity_of(OPERATOR)) == OPERATOR


@pytest.mark.parametrize("roles", [["operator", "front-end"], ["auditor", "owner"]])
def test_a_client_has_at_an_address_only_the_roles_that_it_admits(
    open_daemon: Callable[..., Daemon], roles: list[str]
) -> None:
    """And a token for one that is, among other things, an operator or auditor is of use only where these are admitted."""
    daemon = open_daemon()
    key = daemon.add_key("site")
    daemon.write('operator_addresses = ["127.0.0.2:0"]')
    assert daemon.reload() == "done"
    apart = int(daemon.logged("reload.done")[-1]["address"].rpartition(":")[2])
    there: dict[str, Any] = {"host": "127.0.0.2", "port": apart}
    ticket = run_aside(lambda: _ticket(daemon, there, messages.ClientEnroll("ann", roles[0], role_set=roles)))
    token = EnrolmentToken.parse(ticket.token)
    assert token.address == f"127.0.0.2:{apart}"
    mine = daemon.keys["ann"] = asyncssh.generate_private_key("ssh-ed25519")
    host, port = daemon.address
    with pytest.raises(RefusedHere):
        run_aside(lambda: enrol(replace(token, address=f"{host}:{port}"), public_line(mine)))
    answer = run_aside(lambda: enrol(token, public_line(mine)))
    assert (answer.client, answer.role, answer.roles) == ("ann", roles[0], roles)
    daemon._write_key("ann", mine)

    async def at(**address: Any) -> tuple[list[str], bool, bool]:
        """The roles there, whether the state of the daemon is shown, and whether a key is used."""
        async with Connection(daemon.endpoint("ann", **address)) as connection:
            found: messages.Identity = await connection.control(messages.WhoAmI(), timeout_s=5)
            shown = used = True
            try:
                await connection.control(messages.Status(), timeout_s=5)
            except Refused:
                shown = False
            try:
                await connection.use_key(key, Purpose.TLS13_SERVER, P256, TLS13, timeout_s=5)
            except Refused:
                used = False
            return found.roles, shown, used

    if roles[1] == "front-end":
        grant = messages.GrantAdd("ann", "site", ["tls-server"])
        run_aside(lambda: _asked(daemon, there, grant))
    assert run_aside(lambda: at(**there)) == (roles[:1], True, False)
    assert run_aside(lambda: at()) == (roles[1:], False, roles[1] == "front-end")


async def _ticket(
    daemon: Daemon, there: dict[str, Any], request: messages.ClientEnroll
) -> messages.EnrolmentTicket:
    answer: messages.EnrolmentTicket = await _asked(daemon, there, request)
    return answer


async def _asked(daemon: Daemon, there: dict[str, Any], request: Request) -> Any:
    async with Connection(daemon.endpoint(OPERATOR, **there)) as connection:
        return await connection.control(request, timeout_s=5)
