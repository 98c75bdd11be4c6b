"""The second line of defence: a peer that asyncssh admits by mistake is not admitted by the daemon."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import asyncssh
import pytest
from asyncssh.packet import String

from hsmd.daemon.config.settings import LimitsConfig
from hsmd.daemon.front.access.credentials import KeyCredential
from hsmd.daemon.front.access.identity import Identity
from hsmd.daemon.front.ssh.admission import Admission
from hsmd.daemon.front.ssh.channel import SshChannel
from hsmd.daemon.front.ssh.connection import SshConnection
from hsmd.daemon.front.ssh.tariff import LOGIN, TARIFF
from hsmd.protocol.roles import Role
from hsmd.system.intake import Intakes

LIMITS = LimitsConfig(4, 10, 3, 40, 2, 512, 20_000, 1_024, 4_096, 10)
SIGNATURE = String("ssh-ed25519") + String("signature")
WEB, OPERATOR = (asyncssh.generate_private_key("ssh-ed25519") for _ in range(2))
CLIENTS = {WEB.get_fingerprint(): ("web", Role.FRONT_END), OPERATOR.get_fingerprint(): ("ann", Role.OPERATOR)}


class Identities:
    """Identifies two clients by their keys, until they are withdrawn."""

    def __init__(self) -> None:
        self.withdrawn = False

    def identify_key(self, username: str, fingerprint: str) -> Identity | None:
        client, role = CLIENTS.get(fingerprint, ("", Role.FRONT_END))
        identity = Identity(client, frozenset({role}), KeyCredential(fingerprint))
        return identity if client and client == username else None

    def why_not_identified(self, username: str, fingerprint: str) -> str:
        return "unknown"

    def knows(self, identity: Identity) -> bool:
        return not self.withdrawn


class Transport:
    """A transport whose peer reads everything."""

    def get_write_buffer_size(self) -> int:
        return 0


class Conn:
    """A connection of asyncssh that accepts every login."""

    def __init__(self) -> None:
        self.aborted = False
        self.username = "web"
        self.requests = 0
        self.send_packet = self._send_kexinit = self._recv_data = self._recv_packet = lambda *_: None
        self._transport, self._username, self._kex_complete = Transport(), "web", True
        self._session_id = bytes(range(32))

    def get_extra_info(self, name: str) -> Any:
        return ("192.0.2.7", 1) if name == "peername" else self.username

    def abort(self) -> None:
        self.aborted = True

    async def _finish_userauth(self, *request: Any) -> None:
        self.requests += 1

    async def validate_public_key(self, *shown: Any) -> bool:
        return True


@pytest.fixture
async def parts() -> tuple[Any, Any, Identities]:
    conn, identities = Conn(), Identities()
    connection = SshConnection(
        lambda: identities, Admission(LIMITS), lambda *_: None, set(), Intakes(TARIFF, time.monotonic)
    )  # type: ignore[arg-type,return-value]
    connection.connection_made(conn)  # type: ignore[arg-type]
    return connection, conn, identities


Parts = tuple[Any, Any, Identities]


async def test_a_signature_admits_the_owner_of_its_key(parts: Parts) -> None:
    connection, conn, _ = parts
    assert await conn.validate_public_key("web", WEB.public_data, b"message", SIGNATURE)
    connection.auth_completed()
    assert not conn.aborted
    assert isinstance(await connection.session_requested(), SshChannel)


async def test_the_identity_of_a_session_names_its_connection(parts: Parts) -> None:
    connection, conn, _ = parts
    made: list[Identity] = []
    connection._make_session = lambda identity, *_: made.append(identity)
    assert await conn.validate_public_key("web", WEB.public_data, b"message", SIGNATURE)
    connection.auth_completed()
    channel = await connection.session_requested()
    channel._open_session(channel)
    assert [identity.binding for identity in made] == [conn._session_id]
    assert made[0] == Identity("web", frozenset({Role.FRONT_END}), KeyCredential(WEB.get_fingerprint()))


async def test_a_channel_that_ends_in_the_turn_of_a_request_makes_room_for_it(parts: Parts) -> None:
    """asyncssh answers a CLOSE at once and ends the channel in the next turn; the peer may have read the answer before."""
    connection, conn, _ = parts
    assert await conn.validate_public_key("web", WEB.public_data, b"message", SIGNATURE)
    connection.auth_completed()
    channels = [await connection.session_requested() for _ in range(LIMITS.channels_per_connection)]
    with pytest.raises(asyncssh.ChannelOpenError, match="too many channels"):
        await connection.session_requested()
    asked = connection.session_requested()
    channels[0].connection_lost(None)
    assert isinstance(await asked, SshChannel)


async def test_logins_of_a_client_wait_until_its_account_pays_for_them(parts: Parts) -> None:
    connection, conn, _ = parts
    now = 100.0
    connection._intakes = Intakes(TARIFF, lambda: now)
    for _ in range(int(TARIFF.burst / LOGIN)):
        assert await conn.validate_public_key("web", WEB.public_data, b"message", SIGNATURE)
    assert await conn.validate_public_key("web", WEB.public_data, b"", b""), "a question is no login"
    waiting = asyncio.ensure_future(conn.validate_public_key("web", WEB.public_data, b"message", SIGNATURE))
    await asyncio.sleep(0)
    assert await conn.validate_public_key("ann", OPERATOR.public_data, b"message", SIGNATURE)
    assert not waiting.done(), "it waits, and another client does not"
    now += LOGIN / TARIFF.share
    assert await waiting


async def test_a_key_without_a_signature_admits_no_client(parts: Parts) -> None:
    connection, conn, _ = parts
    assert await conn.validate_public_key("web", WEB.public_data, b"", b"")
    connection.auth_completed()
    assert conn.aborted
    assert connection.session_requested() is False


async def test_offering_another_key_invalidates_the_proof(parts: Parts) -> None:
    connection, conn, _ = parts
    await conn.validate_public_key("web", WEB.public_data, b"message", SIGNATURE)
    await conn.validate_public_key("ann", OPERATOR.public_data, b"", b"")
    connection.auth_completed()
    assert conn.aborted


async def test_a_proof_is_bound_to_one_user_name(parts: Parts) -> None:
    """The race of asyncssh 2.24.0: the name that logs in is not the one that was proven."""
    connection, conn, _ = parts
    await conn.validate_public_key("web", WEB.public_data, b"message", SIGNATURE)
    conn.username = "ann"
    connection.auth_completed()
    assert conn.aborted


async def test_a_login_without_any_proof_is_not_admitted(parts: Parts) -> None:
    connection, conn, _ = parts
    connection.auth_completed()
    assert conn.aborted


async def test_a_client_removed_between_signature_and_login_is_not_admitted(parts: Parts) -> None:
    connection, conn, identities = parts
    await conn.validate_public_key("web", WEB.public_data, b"message", SIGNATURE)
    identities.withdrawn = True
    connection.auth_completed()
    assert conn.aborted


async def test_signatures_of_unknown_keys_are_not_checked(parts: Parts) -> None:
    _, conn, _ = parts
    assert not await conn.validate_public_key("web", OPERATOR.public_data, b"message", SIGNATURE)
    assert not await conn.validate_public_key("web", b"malformed", b"message", SIGNATURE)


async def test_every_authentication_request_counts_as_a_try(parts: Parts) -> None:
    _, conn, _ = parts
    for _ in range(5):
        await conn._finish_userauth(True, b"none", None)
    assert (conn.requests, conn.aborted) == (LIMITS.auth_tries, True)


@pytest.mark.parametrize(
    "missing", ["_finish_userauth", "validate_public_key", "_recv_packet", "_recv_data", "send_packet"]
)
async def test_without_the_hooked_methods_every_login_fails(missing: str) -> None:
    """asyncssh ends a connection whose `connection_made` raises."""

    class Changed(Conn):
        def __getattribute__(self, name: str) -> Any:
            if name == missing:
                raise AttributeError(name)
            return super().__getattribute__(name)

    connection = SshConnection(
        Identities, Admission(LIMITS), lambda *_: None, set(), Intakes(TARIFF, time.monotonic)
    )  # type: ignore[arg-type,return-value]
    with pytest.raises(AttributeError):
        connection.connection_made(Changed())  # type: ignore[arg-type]
    assert connection.session_requested() is False


async def test_a_peer_that_already_disconnected_has_no_address() -> None:
    class Gone(Conn):
        def get_extra_info(self, name: str) -> Any:
            return None

    admission = Admission(LIMITS)
    connection = SshConnection(Identities, admission, lambda *_: None, set(), Intakes(TARIFF, time.monotonic))  # type: ignore[arg-type,return-value]
    connection.connection_made(Gone())  # type: ignore[arg-type]
    connection.connection_lost(None)
    assert (connection.peer, admission.starting) == ("", 0)


@pytest.mark.parametrize("blamed", [True, False])
async def test_a_connection_that_is_dropped_before_its_login_counts_if_it_is_to_blame(blamed: bool) -> None:
    admission, refused = Admission(LIMITS, clock=lambda: 0.0), []
    for _ in range(9):
        connection = SshConnection(
            Identities, admission, lambda *_: None, set(), Intakes(TARIFF, time.monotonic)
        )  # type: ignore[arg-type,return-value]
        connection.connection_made(Conn())  # type: ignore[arg-type]
        connection.drop("others want to log in", blamed=blamed)
        connection.connection_lost(None)
        refused.append(admission.refused)
    assert refused == ([0] * 8 + [1] if blamed else [0] * 9)
