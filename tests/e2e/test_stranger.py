"""A client that was written from docs/protocol.md and docs/control.md alone and uses no code of hsmd."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import os
import socket
import struct
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import asyncssh
import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed
from cryptography.hazmat.primitives.serialization import load_der_public_key

from hsmd.testing import Daemon

HELLO, WELCOME, PING, PONG = 0x01, 0x02, 0x03, 0x04
KEY_OPERATION, RESULT, ERROR, CANCEL = 0x10, 0x11, 0x12, 0x13
CONTROL_REQUEST, CONTROL_RESULT, EVENT = 0x20, 0x21, 0x81
PURPOSES = {"tls13-server": 1, "tls12-rsa-premaster": 5, "sign-message": 8, "sign-digest": 9}
WITHIN_S = 60
HASHES = {4: hashes.SHA256(), 5: hashes.SHA384(), 6: hashes.SHA512()}
PSS = {0x0804: hashes.SHA256(), 0x0805: hashes.SHA384(), 0x0806: hashes.SHA512()}
TLS13 = b" " * 64 + b"TLS 1.3, server CertificateVerify\0" + hashlib.sha256(b"transcript").digest()


class Failed(Exception):
    """An error frame: its code and text (section 5)."""

    def __init__(self, body: bytes) -> None:
        self.code, self.retry_after_ms = struct.unpack_from(">HI", body)
        super().__init__(body[6:].decode())


# --- frames (sections 1 to 4) ---


def frame(kind: int, request_id: int, body: bytes = b"") -> bytes:
    return struct.pack(">IBQ", 9 + len(body), kind, request_id) + body


def hello(capabilities: int = 0b11) -> bytes:
    return frame(HELLO, 0, b"HSMD" + struct.pack(">BBI", 1, 1, capabilities))


def key_operation(purpose: str, scheme: int, key: bytes, data: bytes) -> bytes:
    return struct.pack(">IBH32s", 10_000, PURPOSES[purpose], scheme, key) + data


def control_request(op: str, **members: object) -> bytes:
    return struct.pack(">I", 10_000) + json.dumps({"op": op, **members}).encode()


class Channel:
    """One channel with a server, over a reader and a writer of bytes."""

    def __init__(self, reader: Any, writer: Any) -> None:
        self.reader, self.writer = reader, writer
        self.last_id = 0
        self.events: list[dict[str, Any]] = []

    async def greet(self) -> tuple[int, ...]:
        self.writer.write(hello())
        kind, request_id, body = await self.read()
        assert (kind, request_id) == (WELCOME, 0)
        return struct.unpack(">BIII", body)

    async def read(self) -> tuple[int, int, bytes]:
        """The next frame that is no event; pings are answered."""
        while True:
            length, kind, request_id = struct.unpack(">IBQ", await self.reader.readexactly(13))
            body = await self.reader.readexactly(length - 9)
            if kind == EVENT:
                self.events.append(json.loads(body))
            elif kind == PING:
                self.writer.write(frame(PONG, request_id))
            elif kind < 0x80:
                return kind, request_id, body

    def send(self, kind: int, body: bytes = b"") -> int:
        self.last_id += 1
        self.writer.write(frame(kind, self.last_id, body))
        return self.last_id

    async def answer(self, request_id: int) -> bytes:
        kind, found, body = await self.read()
        assert found == request_id
        if kind == ERROR:
            raise Failed(body)
        return body

    async def use(self, purpose: str, scheme: int, key: bytes, data: bytes) -> bytes:
        return await self.answer(self.send(KEY_OPERATION, key_operation(purpose, scheme, key, data)))

    async def ask(self, op: str, **members: object) -> Any:
        return json.loads(await self.answer(self.send(CONTROL_REQUEST, control_request(op, **members))))


# --- transports (section 6) ---


@pytest.fixture(scope="module")
def daemon() -> Iterator[Daemon]:
    keys = ["www:p-256:tls13-server", "rsa:rsa-2048:tls13-server", "digests:rsa-2048:sign-digest"]
    keys += ["messages:ed25519:sign-message", "premaster:rsa-2048:tls12-rsa-premaster"]
    with Daemon(keys) as running:
        yield running


@asynccontextmanager
async def connected(daemon: Daemon, user: str, identity: Path | Any, **more: Any) -> AsyncIterator[Any]:
    host, _, port = daemon.address.rpartition(":")
    pinned = asyncssh.import_public_key(daemon.host_key)
    async with asyncio.timeout(WITHIN_S):
        connection = await asyncssh.connect(
            host,
            int(port),
            username=user,
            client_keys=[identity] if identity else None,
            known_hosts=([pinned], [], []),
            kex_algs=["curve25519-sha256"],
            encryption_algs=["aes256-gcm@openssh.com"],
            server_host_key_algs=["ssh-ed25519"],
            config=None,
            agent_path=None,
            **more,
        )
    async with connection, asyncio.timeout(WITHIN_S):
        yield connection


async def opened(connection: Any) -> Channel:
    process = await connection.create_process(subsystem="hsmd", encoding=None)
    channel = Channel(process.stdout, process.stdin)
    version, capabilities, longest, requests = await channel.greet()
    assert (version, capabilities & 0b11, longest) == (1, 0b11, 65_536) and requests > 0
    return channel


@asynccontextmanager
async def front_end(daemon: Daemon) -> AsyncIterator[Channel]:
    async with connected(daemon, daemon.front_end, daemon.front_end_identity) as connection:
        yield await opened(connection)


@asynccontextmanager
async def operator(daemon: Daemon) -> AsyncIterator[Channel]:
    async with connected(daemon, "operator", daemon.directory / "operator") as connection:
        yield await opened(connection)


def digest(daemon: Daemon, name: str) -> bytes:
    return daemon.keys[name].digest


def verify(spki: bytes, scheme: int, signature: bytes, data: bytes, *, is_digest: bool = False) -> None:
    """Raise InvalidSignature unless the scheme's signature over `data` is good."""
    key = load_der_public_key(spki)
    if isinstance(key, ed25519.Ed25519PublicKey):
        key.verify(signature, data)
        return
    algorithm: Any = PSS.get(scheme) or HASHES[scheme >> 8]
    signed = Prehashed(algorithm) if is_digest else algorithm
    if isinstance(key, ec.EllipticCurvePublicKey):
        key.verify(signature, data, ec.ECDSA(signed))
    elif isinstance(key, rsa.RSAPublicKey):
        pss = padding.PSS(padding.MGF1(algorithm), algorithm.digest_size)
        key.verify(signature, data, pss if scheme in PSS else padding.PKCS1v15(), signed)


# --- a front end ---


async def test_a_stranger_lists_keys_and_signs(daemon: Daemon) -> None:
    async with front_end(daemon) as channel:
        me = await channel.ask("whoami")
        assert (me["client"], me["role"]) == (daemon.front_end, "front-end")
        first = await channel.ask("key.list", limit=2)
        rest = await channel.ask("key.list", after=first["keys"][-1]["name"])
        assert (first["more"], rest["more"]) == (True, False)
        keys = {key["name"]: key for key in first["keys"] + rest["keys"]}
        assert sorted(keys) == sorted(daemon.keys)
        public = {name: base64.b64decode(key["public_key"]) for name, key in keys.items()}
        for name, spki in public.items():
            assert hashlib.sha256(spki).hexdigest() == keys[name]["digest"]
        for name, scheme in (("www", 0x0403), ("rsa", 0x0804), ("rsa", 0x0806)):
            made = await channel.use("tls13-server", scheme, digest(daemon, name), TLS13)
            verify(public[name], scheme, made, TLS13)
        made = await channel.use("sign-message", 0x0807, digest(daemon, "messages"), b"any bytes")
        verify(public["messages"], 0x0807, made, b"any bytes")
        for scheme, size in (
            (0x0401, 32),
            (0x0501, 48),
            (0x0601, 64),
            (0x0804, 32),
            (0x0805, 48),
            (0x0806, 64),
        ):
            data = os.urandom(size)
            made = await channel.use("sign-digest", scheme, digest(daemon, "digests"), data)
            verify(public["digests"], scheme, made, data, is_digest=True)
        secrets = [
            await channel.use("tls12-rsa-premaster", 0, digest(daemon, "premaster"), bytes(size))
            for size in (1, 256, 256)
        ]
        assert [len(secret) for secret in secrets] == [48] * 3
        assert {secret[:2] for secret in secrets} == {b"\3\3"} and secrets[1] == secrets[2]


async def test_a_stranger_is_told_what_is_wrong(daemon: Daemon) -> None:
    async with front_end(daemon) as channel:
        for purpose, scheme, key, data, code in (
            ("tls13-server", 0x0403, digest(daemon, "www"), b"other bytes", 11),
            ("tls13-server", 0x0503, digest(daemon, "www"), TLS13, 11),
            ("tls13-server", 0x0401, digest(daemon, "rsa"), TLS13, 11),
            ("sign-digest", 0x0401, digest(daemon, "digests"), bytes(31), 11),
            ("tls12-rsa-premaster", 0, digest(daemon, "premaster"), bytes(1_025), 11),
            ("sign-message", 0x0403, digest(daemon, "www"), b"x", 10),
            ("tls13-server", 0x0403, bytes(32), TLS13, 10),
        ):
            with pytest.raises(Failed) as failed:
                await channel.use(purpose, scheme, key, data)
            assert failed.value.code == code, (purpose, hex(scheme), failed.value)
        for document, code, text in (
            (control_request("key.show"), 13, "name"),
            (control_request("key.show", name="www", more=1), 13, "more"),
            (control_request("no.such"), 13, "no.such"),
            (control_request("whoami")[:-1], 13, "not one complete JSON object"),
            (control_request("key.show", name="nowhere"), 10, "refused"),
            (control_request("client.list"), 10, "refused"),
        ):
            with pytest.raises(Failed, match=text) as failed:
                await channel.answer(channel.send(CONTROL_REQUEST, document))
            assert failed.value.code == code, (document, failed.value)
    async with operator(daemon) as channel:
        with pytest.raises(Failed, match="nowhere") as failed:
            await channel.ask("key.show", name="nowhere")
        assert failed.value.code == 12
        with pytest.raises(Failed, match="www") as failed:
            await channel.ask("key.generate", name="www", key_type="p-256", purposes=["tls-server"])
        assert failed.value.code == 14


async def test_a_stranger_pings_and_cancels(daemon: Daemon) -> None:
    async with front_end(daemon) as channel:
        request_id = channel.send(PING)
        assert await channel.read() == (PONG, request_id, b"")
        body = key_operation("sign-digest", 0x0401, digest(daemon, "digests"), bytes(32))
        sent = range(100, 150)
        frames = [frame(KEY_OPERATION, number, body) + frame(CANCEL, number) for number in sent]
        channel.writer.write(b"".join([*frames, frame(CANCEL, 999_999)]))
        answers = [await channel.read() for _ in sent]
        assert sorted(request_id for _, request_id, _ in answers) == list(sent)
        errors = [Failed(body).code for kind, _, body in answers if kind == ERROR]
        assert set(errors) == {22}
        assert [kind for kind, _, _ in answers if kind != ERROR] == [RESULT] * (len(sent) - len(errors))


async def test_a_stranger_that_breaks_a_rule_gets_one_error(daemon: Daemon) -> None:
    async with connected(daemon, daemon.front_end, daemon.front_end_identity) as connection:
        for wrong in (frame(PING, 0), frame(PING, 1, b"x"), frame(0x7F, 1), b"\xff" * 13):
            channel = await opened(connection)
            channel.writer.write(frame(PING, 5) + wrong)
            kind, request_id, body = await channel.read()
            while kind == PONG:  # the right frame in front may have come alone
                kind, request_id, body = await channel.read()
            assert (kind, request_id, Failed(body).code) == (ERROR, 0, 1)
            assert await channel.reader.read() == b""
        process = await connection.create_process(subsystem="hsmd", encoding=None)
        process.stdin.write(frame(HELLO, 0, b"HSMD" + struct.pack(">BBI", 2, 9, 0)))
        kind, request_id, body = await Channel(process.stdout, process.stdin).read()
        assert (kind, request_id, Failed(body).code) == (ERROR, 0, 2)


async def test_a_stranger_follows_events(daemon: Daemon) -> None:
    async with front_end(daemon) as channel, operator(daemon) as manager:
        answer = await channel.ask("events.follow", since="now")
        assert answer.get("missed", "") == ""
        await manager.ask("cert.self-signed", key="www", dns_names=["www.example.org"])
        while not channel.events:
            request_id = channel.send(PING)
            assert await channel.read() == (PONG, request_id, b"")
        event = channel.events[0]
        assert (event["kind"], event["subject"]) == ("certificate.replaced", "www")
        page = await channel.ask("events.read", since=answer["cursor"])
        assert page["events"] == channel.events and not page["more"]


# --- the audit log (audit.md, section 5) ---


def root_of(leaf: bytes, index: int, size: int, proof: list[bytes]) -> bytes:
    """The root that an inclusion proof leads to (RFC 9162, section 2.1.3.2)."""
    position, last, node = index, size - 1, leaf
    for step in proof:
        assert last > 0
        if position & 1 or position == last:
            node = hashlib.sha256(b"\1" + step + node).digest()
            while not position & 1 and position:
                position, last = position >> 1, last >> 1
        else:
            node = hashlib.sha256(b"\1" + node + step).digest()
        position, last = position >> 1, last >> 1
    assert last == 0
    return node


def signed_root(note: str, verifier_key: str) -> tuple[int, bytes]:
    """Size and root of a checkpoint with one signature, by an Ed25519 key."""
    name, key_id, encoded = verifier_key.split("+", 2)
    material = base64.b64decode(encoded)
    assert material[0] == 1 and hashlib.sha256(name.encode() + b"\n" + material).digest()[:4].hex() == key_id
    text, _, line = note.rpartition("\n\n")
    dash, signer, signature = line.removesuffix("\n").split(" ")
    raw = base64.b64decode(signature)
    assert (dash, signer, raw[:4].hex()) == ("\u2014", name, key_id)
    ed25519.Ed25519PublicKey.from_public_bytes(material[1:]).verify(raw[4:], f"{text}\n".encode())
    origin, size, root = text.split("\n")
    assert origin == name and origin.startswith("hsmd/")
    return int(size), base64.b64decode(root)


async def test_a_stranger_verifies_what_the_log_says_about_it(daemon: Daemon) -> None:
    async with front_end(daemon) as channel:
        await channel.use("tls13-server", 0x0403, digest(daemon, "www"), TLS13)
        asked = hashlib.sha256(TLS13).hexdigest()
        records: list[str] = []
        following = 0
        while not records:
            page = await channel.ask("audit.about", first=following, limit=500)
            records += [line for line in page["lines"] if json.loads(line).get("asked") == asked]
            following = page["next"]
        attempt = json.loads(records[0])
        assert attempt["event"] in ("attempt", "refusal") and attempt["client"] == daemon.front_end
        checkpoint: dict[str, Any] = {"note": ""}
        size = 0
        while size <= attempt["index"]:  # the daemon signs one every few seconds
            checkpoint = await channel.ask("audit.checkpoint")
            size = int(checkpoint["note"].split("\n")[1]) if checkpoint["note"] else 0
        proven = await channel.ask("audit.prove", index=attempt["index"])
        size, root = signed_root(proven["note"], checkpoint["verifier_key"])
        assert (proven["size"], proven["line"]) == (size, records[0])
        leaf = hashlib.sha256(b"\0" + proven["line"].encode()).digest()
        proof = [base64.b64decode(step) for step in proven["proof"]]
        assert root_of(leaf, attempt["index"], size, proof) == root


# --- enrolment (section 8) and a new key (control.md, client.rotate-key) ---


async def test_a_stranger_enrols_and_changes_its_key(daemon: Daemon) -> None:
    async with operator(daemon) as manager:
        ticket = await manager.ask(
            "client.enroll", name="newcomer", grants=[{"key": "www", "purposes": ["tls13-server"]}]
        )
    label, version, encoded = ticket["token"].split(":")
    raw = base64.urlsafe_b64decode(encoded + "=" * (-len(encoded) % 4))
    flags, identifier, secret, pin = struct.unpack_from(">B8s16s32s", raw)
    prefix = f"{label}:{version}:".encode()
    assert prefix == b"hsmd-enroll:v1:" and hashlib.sha256(prefix + raw[:-4]).digest()[:4] == raw[-4:]
    assert (flags, raw[57:-4].decode()) == (0, daemon.address)
    assert hashlib.sha256(asyncssh.import_public_key(daemon.host_key).public_data).digest() == pin
    key, following = (
        asyncssh.generate_private_key("ssh-ed25519"),
        asyncssh.generate_private_key("ssh-ed25519"),
    )
    password = f"{identifier.hex()}.{secret.hex()}"
    async with connected(daemon, "enroll", None, password=password) as connection:
        process = await connection.create_process(subsystem="hsmd-enroll", encoding=None)
        question = {"public_key": key.export_public_key().decode().strip()}
        process.stdin.write(json.dumps(question).encode() + b"\n")
        answer = json.loads(await process.stdout.readline())
    assert answer.get("error", "") == "" and (answer["client"], answer["role"]) == ("newcomer", "front-end")
    assert answer["host_keys"][0].split()[:2] == daemon.host_key.split()[:2]

    statement = b"hsmd client key rotation v1\0"
    for text in ("newcomer", key.get_fingerprint(), following.get_fingerprint()):
        statement += struct.pack(">I", len(text)) + text.encode()
    proof = base64.b64encode(following.sign(statement, b"ssh-ed25519")).decode()
    async with connected(daemon, "newcomer", key) as connection:
        channel = await opened(connection)
        await channel.use("tls13-server", 0x0403, digest(daemon, "www"), TLS13)
        line = following.export_public_key().decode().strip()
        assert (await channel.ask("client.rotate-key", public_key=line, proof=proof)).get("changed", True)
    async with connected(daemon, "newcomer", following) as connection:
        channel = await opened(connection)
        assert (await channel.ask("client.rotate-key")).get("changed", True)
        await channel.use("tls13-server", 0x0403, digest(daemon, "www"), TLS13)


# --- an agent ---


async def test_a_stranger_uses_an_agent(daemon: Daemon) -> None:
    assert daemon.agent_socket is not None
    async with asyncio.timeout(WITHIN_S):
        reader, writer = await asyncio.open_unix_connection(daemon.agent_socket)
        channel = Channel(reader, writer)
        version, capabilities, _, _ = await channel.greet()
        assert (version, capabilities & 0b11) == (1, 0b01)
        me = await channel.ask("whoami")
        assert (me["role"], me["credential"]) == ("agent", f"uid:{os.getuid()}")
        page = await channel.ask("key.list")
        assert sorted(key["name"] for key in page["keys"]) == sorted(daemon.keys)
        shown = await channel.ask("key.show", name="www")
        chain = await channel.ask("cert.export", key="www")
        chains = await channel.ask("cert.chains", keys=["www", "digests"])
        assert [each["pem"] for each in chains["chains"]] == [chain["pem"]]
        made = await channel.use("tls13-server", 0x0403, digest(daemon, "www"), TLS13)
        verify(base64.b64decode(shown["public_key"]), 0x0403, made, TLS13)
        for op in ("audit.about", "events.read", "client.list", "statement.keys"):
            with pytest.raises(Failed) as failed:
                await channel.ask(op)
            assert failed.value.code == 10
        writer.close()


def test_a_stranger_makes_one_operation_in_one_write(daemon: Daemon) -> None:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(WITHIN_S)
        sock.connect(str(daemon.agent_socket))
        body = key_operation("tls13-server", 0x0403, digest(daemon, "www"), TLS13)
        sock.sendall(hello(0) + frame(KEY_OPERATION, 1, body))
        received = b""
        while len(received) < 26 or len(received) < 30 + int.from_bytes(received[26:30], "big"):
            received += sock.recv(4096)
    assert struct.unpack_from(">IBQ", received, 26)[1:] == (RESULT, 1)
