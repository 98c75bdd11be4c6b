"""A client with a role that has few rights, against a real daemon: it gets no others, whatever its role is not."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import asyncssh
import pytest

from hsmd.errors import ErrorCode
from hsmd.protocol import messages
from hsmd.protocol.frames import Kind
from hsmd.protocol.messages import Request
from tests.support.daemon import MAIL, OPERATOR, Daemon, public_line, running_daemon
from tests.support.polling import eventually
from tests.support.requests import minimal
from tests.support.ssh_peer import Wire, ssh, wire

pytestmark = pytest.mark.timeout(120)
FEW = ("owner", "checker", "node", "depositary")
FOR_ALL = {
    messages.AuditAbout, messages.AuditCheckpoint, messages.AuditProve, messages.ClientRotateKey, messages.EventsFollow,
    messages.EventsRead, messages.HealthRead, messages.StatementKeys, messages.VaultCheck, messages.WhoAmI,
}  # fmt: skip
FOR_OWNERS = {
    messages.CertificateChains, messages.CertificateExport, messages.KeyHistory, messages.KeyList, messages.KeyShow,
    messages.VaultAllow, messages.VaultAllowed, messages.VaultChallenge, messages.VaultChecks, messages.VaultDestroy,
    messages.VaultDisallow, messages.VaultGet, messages.VaultKeys, messages.VaultLimits, messages.VaultList,
    messages.VaultPut, messages.VaultRegister, messages.VaultRekeyBegin, messages.VaultRekeyFinish,
    messages.VaultRekeyList, messages.VaultRekeyWrap, messages.VaultResume, messages.VaultRevoke, messages.VaultShow,
    messages.VaultStatements, messages.VaultSuspend,
}  # fmt: skip
FOR_NODES = {messages.NodeCertificate, messages.NodeTrust}


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Clients with one role each, called as it is. MAIL has a grant on the key `site`, which the owner owns."""
    with running_daemon(tmp_path_factory.mktemp("roles") / "daemon") as built:
        built.digests = {}
        for role in FEW:
            built.keys[role] = asyncssh.generate_private_key("ssh-ed25519")
            built.ask(messages.ClientAdd(role, role, public_line(built.keys[role])))
        for name, owner in (("site", "owner"), ("other", "")):
            info = built.ask(messages.KeyGenerate(name, "p-256", ["tls-server"], owner=owner))
            built.ask(messages.CertificateSelfSigned(name, [f"{name}.test"]))
            built.ask(messages.GrantAdd(MAIL, name, ["tls-server"]))
            built.digests[name] = bytes.fromhex(info.digest)
        yield built


def about(request_type: type[Request], key: str) -> Request:
    request = minimal(request_type)
    if request.subject.key:
        setattr(request, request.subject.key, key)
    return request


@pytest.mark.parametrize("role", FEW)
async def test_a_role_has_its_own_requests_and_no_others(daemon: Daemon, role: str) -> None:
    allowed = FOR_ALL | {"owner": FOR_OWNERS, "node": FOR_NODES}.get(role, set())
    async with await ssh(daemon, role) as connection:
        channel = await wire(connection)
        for number, request_type in enumerate(set(messages.REQUESTS) - allowed, 1):
            error = await channel.error_of_control(number, about(request_type, "site"))
            assert error.code == ErrorCode.REFUSED, request_type
        for number, request in enumerate(
            (messages.WhoAmI(), messages.AuditCheckpoint(), messages.AuditAbout()), 900
        ):
            assert (await channel.control(number, request))[0] == Kind.CONTROL_RESULT, request


@pytest.mark.parametrize("role", FEW)
async def test_no_other_role_uses_keys(daemon: Daemon, role: str) -> None:
    async with await ssh(daemon, role) as connection:
        channel = await wire(connection)
        assert (await use(channel, 1, daemon)) is False
    assert daemon.audit("refusal")[-1]["rule"] == "wrong-role"
    async with await ssh(daemon, MAIL) as connection:
        assert await use(await wire(connection), 1, daemon), "a front end with the grant does"


async def use(channel: Wire, number: int, daemon: Daemon) -> bool:
    kind, _ = await channel.use(number, daemon.digests["site"])  # type: ignore[attr-defined]
    return bool(kind == Kind.RESULT)


async def test_an_owner_sees_the_keys_that_it_owns(daemon: Daemon) -> None:
    async with await ssh(daemon, "owner") as connection:
        channel = await wire(connection)
        _, body = await channel.control(11, messages.KeyList())
        assert [key.name for key in messages.decode_result(body, messages.KeyPage).keys] == ["site"]
        assert (await channel.control(12, messages.KeyShow("site")))[0] == Kind.CONTROL_RESULT
        for number, request in enumerate(
            (messages.KeyShow("other"), messages.KeyShow("nothing"), messages.CertificateExport("other")), 1
        ):
            assert (await channel.error_of_control(number, request)).code == ErrorCode.REFUSED
        _, body = await channel.control(13, messages.CertificateChains(["other", "site", "nothing"]))
        page = messages.decode_result(body, messages.ChainPage)
        assert ([chain.key for chain in page.chains], page.answered) == (["site"], 3)


@pytest.mark.parametrize("role", FEW)
async def test_a_role_reads_no_records_of_others(daemon: Daemon, role: str) -> None:
    """An owner reads the records about its key. Only operators read those about another key."""
    found, everything = [
        {
            each["fields"]["target_name"]
            for each in [json.loads(line) async for line in records(daemon, client)]
            if each.get("client") == OPERATOR and each.get("fields", {}).get("op") == "key.generate"
        }
        for client in (role, OPERATOR)
    ]
    assert found == ({"site"} if role == "owner" else set())
    assert everything == {"site", "other"}


async def records(daemon: Daemon, client: str) -> AsyncIterator[str]:
    first = 0
    async with await ssh(daemon, client) as connection:
        channel = await wire(connection)
        while True:
            _, body = await channel.control(1 + first, messages.AuditAbout(first, 500))
            page = messages.decode_result(body, messages.AuditLines)
            for line in page.lines:
                yield line
            if page.next >= page.size or page.next == first:
                return
            first = page.next


# --- changes of roles while a client is connected ---


async def test_a_removed_role_ends_the_connections_that_had_it(daemon: Daemon) -> None:
    """A further one does not, and takes effect with the next connection."""
    key = daemon.keys["changing"] = asyncssh.generate_private_key("ssh-ed25519")
    await control(daemon, messages.ClientAdd("changing", "front-end", public_line(key)))
    await control(daemon, messages.GrantAdd("changing", "site", ["tls-server"]))
    async with await ssh(daemon, "changing") as before:
        channel = await wire(before)
        await control(daemon, messages.ClientRoleAdd("changing", "checker"))
        assert await use(channel, 1, daemon)
        assert await roles_of(channel, 2) == ["front-end"]
        async with await ssh(daemon, "changing") as after:
            later = await wire(after)
            assert await roles_of(later, 1) == ["front-end", "checker"]
            await control(daemon, messages.ClientRoleRemove("changing", "checker"))
            await eventually(later.closed.is_set)
        assert await use(channel, 3, daemon), "the other one had only what is left"
        await control(daemon, messages.ClientRoleAdd("changing", "node"))
        await control(daemon, messages.ClientRoleRemove("changing", "front-end"))
        await eventually(channel.closed.is_set)
    async with await ssh(daemon, "changing") as left:
        channel = await wire(left)
        assert await roles_of(channel, 1) == ["node"]
        assert not await use(channel, 2, daemon)
    grants = await control(daemon, messages.GrantList(client="changing"))
    assert grants.grants == []


async def roles_of(channel: Wire, number: int) -> list[str]:
    _, body = await channel.control(number, messages.WhoAmI())
    return messages.decode_result(body, messages.Identity).roles


async def control(daemon: Daemon, request: Request) -> Any:
    return await asyncio.to_thread(daemon.ask, request)
