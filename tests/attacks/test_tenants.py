"""A4: before, attack, after - for every operation and every way to prove who one is; and operators at an address of their own."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import asyncssh
import pytest

from hsmd.client.enrolment import enrol
from hsmd.daemon.front.control.dispatcher import CHANGES
from hsmd.errors import Refused, RefusedHere
from hsmd.protocol import messages
from hsmd.protocol.enrolment import EnrolmentToken
from hsmd.protocol.frames import Kind
from hsmd.protocol.messages import Request
from tests.daemon_house import (
    AUDITOR,
    MAIL,
    OPERATOR,
    WEB,
    House,
    certificate,
    has_no_more,
    public_line,
    ssh,
    wire,
)

pytestmark = pytest.mark.timeout(120)
VICTIM, THIEF = "victim", "thief"
FOR_OPERATORS = [each for each in messages.REQUESTS if each in CHANGES - {messages.ClientRotateKey}]
CERTIFIED = {VICTIM: "victim-c", THIEF: "thief-c"}


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Two tenants, each as a client with a key and as one with certificates of a CA of its own; a key for each tenant."""
    from tests.daemon_house import house as open_one

    with open_one(tmp_path_factory.mktemp("tenants") / "daemon") as built:
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


def proof(house: House, tenant: str, how: str) -> tuple[str, Any]:
    """(user name, what proves it)."""
    if how == "key":
        return tenant, house.keys[tenant]
    key = asyncssh.generate_private_key("ssh-ed25519")
    algorithm, blob = certificate(house.cas[tenant], key, [CERTIFIED[tenant]])  # type: ignore[attr-defined]
    return CERTIFIED[tenant], (key, asyncssh.import_certificate(algorithm + b" " + base64.b64encode(blob)))


async def use(channel: Any, number: int, house: House, tenant: str) -> bool:
    kind, _ = await channel.use(number, house.digests[tenant])  # type: ignore[attr-defined]
    return bool(kind == Kind.RESULT)


async def ask(channel: Any, number: int, request: Request) -> bytes:
    """The result, empty if it is refused."""
    kind, body = await channel.control(number, request)
    return bytes(body) if kind == Kind.CONTROL_RESULT else b""


async def show(channel: Any, number: int, house: House, tenant: str) -> bool:
    return bool(await ask(channel, number, messages.KeyShow(f"key-of-{tenant}")))


async def listed(channel: Any, number: int, house: House, tenant: str) -> bool:
    document = json.loads(await ask(channel, number, messages.KeyList()))
    return f"key-of-{tenant}" in [key["name"] for key in document["keys"]]


OPERATIONS: dict[str, Callable[[Any, int, House, str], Any]] = {"use": use, "show": show, "list": listed}


@pytest.mark.parametrize("thief", ["key", "certificate"])
@pytest.mark.parametrize("victim", ["key", "certificate"])
@pytest.mark.parametrize("name", OPERATIONS)
async def test_before_attack_after(house: House, name: str, victim: str, thief: str) -> None:
    """The victim can; the thief cannot, by any name; and the victim still can."""
    act = OPERATIONS[name]
    user, proven = proof(house, VICTIM, victim)
    own, stolen = proof(house, THIEF, thief)
    async with await ssh(house, user, proven) as connection, await ssh(house, own, stolen) as attacker:
        good, bad = await wire(connection), await wire(attacker)
        assert await act(good, 1, house, VICTIM)
        assert await act(bad, 1, house, THIEF)
        for number in (2, 3, 4):
            assert not await act(bad, number, house, VICTIM)
        for name_tried in (user, user.upper(), f"{user} ", f"{user}\u200b", "*"):
            with pytest.raises((asyncssh.PermissionDenied, asyncssh.ConnectionLost, ValueError)):
                await ssh(house, name_tried, stolen)
        assert await act(bad, 5, house, THIEF)
        assert await act(good, 2, house, VICTIM)


@pytest.mark.parametrize("client", [VICTIM, AUDITOR])
@pytest.mark.parametrize("request_type", FOR_OPERATORS, ids=lambda each: each.__struct_config__.tag)
def test_changes_are_for_operators(house: House, request_type: type[Request], client: str) -> None:
    """Whatever changes something is refused to everybody else, before anything else about it is looked at."""
    values: dict[str, Any] = {
        "name": "key-of-thief", "new_name": "mine", "confirm": "key-of-thief", "client": THIEF, "key": "key-of-thief",
        "purposes": ["tls-server"], "clients": [THIEF], "public_key": public_line(house.keys[WEB]), "key_type": "p-256",
        "ca": "", "serial": "", "fingerprint": house.keys[THIEF].get_fingerprint(), "role": "front-end", "chain": "x",
        "dns_names": ["x"], "subject": "CN=x", "token": "main", "note": "x", "days": 1, "dns": ["x"], "common_name": "x",
    }  # fmt: skip
    request = request_type(
        **{name: values[name] for name in request_type.__struct_fields__ if name in values}
    )
    house.keys.setdefault(client, house.keys[VICTIM])
    (house.directory / VICTIM).touch(mode=0o600)
    house.keys[VICTIM].write_private_key(house.directory / VICTIM)
    with pytest.raises(Refused):
        house.ask(request, client)


# --- withdrawn while connected ---


async def withdrawn(house: House, user: str, proven: Any, how: Request) -> None:
    """One is connected and works; an operator acts; not one signature more, and the connection is closed."""
    async with house.connection(OPERATOR) as operator:
        connection = await ssh(house, user, proven)
        channel = await wire(connection)
        digest = house.digests["web"]  # type: ignore[attr-defined]
        assert (await channel.use(1, digest))[0] == Kind.RESULT
        await operator.control(how, timeout_s=10)
        await has_no_more(connection, channel, digest)
        with pytest.raises(asyncssh.PermissionDenied):
            await ssh(house, user, proven)


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
async def test_a_withdrawn_certificate_is_out_at_once(house: House, how: str) -> None:
    if "web" not in house.digests:  # type: ignore[attr-defined]
        house.digests["web"] = house.add_key("web")  # type: ignore[attr-defined]
    ca, key = (asyncssh.generate_private_key("ssh-ed25519") for _ in range(2))
    async with house.connection(OPERATOR) as operator:
        await operator.control(messages.ClientAdd("brief-c"), timeout_s=10)
        await operator.control(messages.ClientTrustCa(public_line(ca), ["brief-c"]), timeout_s=10)
        await operator.control(messages.GrantAdd("brief-c", "web", ["tls-server"]), timeout_s=10)
        algorithm, blob = certificate(ca, key, ["brief-c"])
        pair = (key, asyncssh.import_certificate(algorithm + b" " + base64.b64encode(blob)))
        await withdrawn(house, "brief-c", pair, WITHDRAWALS[how](ca, key))
        for name in ("brief-c", "renamed-c"):
            try:
                await operator.control(messages.ClientRemove(name), timeout_s=10)
            except Exception:
                continue


# --- operators at an address of their own ---


def test_roles_are_kept_to_their_addresses(open_house: Callable[..., House]) -> None:
    house = open_house()
    house.write('operator_addresses = ["127.0.0.2:0"]')
    assert house.reload() == "done"
    status = house.logged("reload.done")[-1]["address"]
    apart = int(status.rpartition(":")[2])
    there: dict[str, Any] = {"host": "127.0.0.2", "port": apart}

    async def who(client: str, **place: Any) -> str:
        from hsmd.client import Connection

        async with Connection(house.endpoint(client, **place)) as connection:
            answer: messages.Identity = await connection.control(messages.WhoAmI(), timeout_s=5)
            return answer.client

    from hsmd.errors import Unavailable
    from tests.daemon_house import run_aside

    for client, place in ((WEB, {}), (MAIL, {}), (OPERATOR, there), (AUDITOR, there)):
        assert run_aside(lambda c=client, p=place: who(c, **p)) == client  # type: ignore[misc]
    for client, place in ((WEB, there), (MAIL, there), (OPERATOR, {}), (AUDITOR, {})):
        with pytest.raises(Unavailable, match="does not accept the identity"):
            run_aside(lambda c=client, p=place: who(c, **p))  # type: ignore[misc]
    ticket = run_aside(lambda: _ticket(house, there))
    assert ticket.address == f"127.0.0.2:{apart}"
    token = EnrolmentToken.parse(ticket.token)
    host, port = house.address
    elsewhere = replace(token, address=f"{host}:{port}")
    mine = public_line(asyncssh.generate_private_key("ssh-ed25519"))
    with pytest.raises(RefusedHere):  # a token for an operator is of no use in the front ends' network either
        run_aside(lambda: enrol(elsewhere, mine))
    assert run_aside(lambda: enrol(token, mine)).client == "ann"
    house.write()
    assert house.reload() == "done"
    assert run_aside(lambda: who(OPERATOR)) == OPERATOR


async def _ticket(house: House, there: dict[str, Any]) -> messages.EnrolmentTicket:
    from hsmd.client import Connection

    async with Connection(house.endpoint(OPERATOR, **there)) as connection:
        return await connection.control(messages.ClientEnroll("ann", role="operator"), timeout_s=5)  # type: ignore[return-value]
