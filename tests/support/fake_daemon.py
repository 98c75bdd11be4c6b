"""A fake daemon: asyncssh and the real server channel, software keys, and faults on demand."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import asyncssh
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from hsmd.algorithms import Family, Padding, SignatureScheme, key_type_of
from hsmd.client.endpoint import Endpoint
from hsmd.errors import BadRequest, Draining, HsmdError, NotFound, Refused
from hsmd.protocol import messages
from hsmd.protocol.chain_pages import ChainPageBuilder
from hsmd.protocol.channel import ServerChannel, State
from hsmd.protocol.frames import (
    Capability,
    KeyOperation,
    Kind,
    decode_control_request,
    decode_key_operation,
    encode,
    encode_drain,
    encode_error,
    encode_welcome,
)
from hsmd.purposes import Purpose
from hsmd.system.control_requests import MAX_RESULT_BYTES
from hsmd.system.ssh_profile import CIPHERS, KEX_ALGORITHMS, without_ignore_packets
from tests.support.audit_logs import LogMaker

CLIENT = "web-1"
WHEN = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


@dataclass
class Faults:
    """The faults of the daemon, which can be changed while it runs."""

    silent: bool = False  # read, but answer nothing, not even pings
    hold: bool = False  # answer pings, but keep key operations until `release`
    half_frames: bool = False  # send only the first half of each answer
    refuse: HsmdError | None = None
    foreign_answer: bool = False  # answer requests that were never made
    drain_at_start: bool = False
    answer: Callable[[KeyOperation], bytes] | None = None


@dataclass
class SoftKey:
    name: str
    private: PrivateKeyTypes
    purposes: list[str] = field(default_factory=lambda: ["tls13-server", "tls12-server"])
    chain: str = ""
    marked: bool = True  # False: as daemons of earlier versions show it
    replacement: messages.KeyReplacement | None = None

    @property
    def public_der(self) -> bytes:
        return self.private.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)

    @property
    def digest(self) -> bytes:
        return hashlib.sha256(self.public_der).digest()

    @property
    def info(self) -> messages.KeyInfo:
        key_type = key_type_of(self.private.public_key())
        assert key_type is not None
        expires = WHEN if self.chain else None
        return messages.KeyInfo(
            self.name,
            key_type.value,
            self.digest.hex(),
            self.public_der,
            self.purposes,
            "soft",
            WHEN,
            expires,
            certificate_mark=hashlib.sha256(self.chain.encode()).hexdigest()
            if self.chain and self.marked
            else "",
            replacement=self.replacement,
        )


class FakeDaemon:
    """Listens on 127.0.0.1; `operations` and `cancelled` record the clients' requests."""

    def __init__(self, directory: Path, *, max_open: int = 512, **listen: Any) -> None:
        self.directory = directory
        self.host_key = asyncssh.generate_private_key("ssh-ed25519")
        self.client_key = asyncssh.generate_private_key("ssh-ed25519")
        self.identity = directory / "identity"
        if not self.identity.exists():
            self.client_key.write_private_key(self.identity)
            self.identity.chmod(0o600)
        else:
            self.client_key = asyncssh.read_private_key(self.identity)
        self.faults = Faults()
        self.keys: dict[bytes, SoftKey] = {}
        self.max_open = max_open
        self.port = 0
        self.operations: list[KeyOperation] = []
        self.requests: list[messages.Request] = []
        self.cancelled: list[int] = []
        self.log: LogMaker | None = None  # the log of its checkpoints; None: it has no checkpoint yet
        self.discontinuities: list[str] = []
        self.health: messages.Health | None = None  # None: it is of a release that does not tell it
        self.logins = 0
        self.sessions: list[_Session] = []
        self.connections: list[Any] = []
        self._listen = listen
        self._acceptor: Any = None

    async def start(self) -> FakeDaemon:
        options: dict[str, Any] = {
            "server_host_keys": [self.host_key],
            "kex_algs": KEX_ALGORITHMS,
            "encryption_algs": CIPHERS,
            "compression_algs": ["none"],
        } | self._listen
        self._acceptor = await asyncssh.listen(
            "127.0.0.1",
            self.port,
            server_factory=lambda: _Server(self),
            encoding=None,
            config=[],
            reuse_address=True,
            **options,
        )
        self.port = self._acceptor.get_port()
        return self

    async def stop(self) -> None:
        """Close everything abruptly, like a killed process; `start` listens on the same port again."""
        self._acceptor.close()
        self.drop()
        await self._acceptor.wait_closed()
        async with asyncio.timeout(5):
            while self.connections:
                await asyncio.sleep(0.001)

    def drop(self) -> None:
        for connection in list(self.connections):
            connection.abort()

    def endpoint(self, **changes: Any) -> Endpoint:
        values: dict[str, Any] = {
            "host": "127.0.0.1",
            "port": self.port,
            "host_keys": (public_line(self.host_key),),
            "user": CLIENT,
            "identity_file": self.identity,
        } | changes
        return Endpoint(**values)

    def add_key(self, name: str, private: PrivateKeyTypes | None = None, **options: Any) -> SoftKey:
        key = SoftKey(name, private or ec.generate_private_key(ec.SECP256R1()), **options)
        self.keys[key.digest] = key
        return key

    def drain(self, grace_ms: int = 1000) -> None:
        for session in self.sessions:
            session.drain(grace_ms)

    def event(self, document: bytes) -> None:
        for session in self.sessions:
            session.write(encode(Kind.EVENT, 0, document))

    def release(self) -> None:
        self.faults.hold = False
        for session in self.sessions:
            session.release()


class _Server(asyncssh.SSHServer):
    def __init__(self, daemon: FakeDaemon) -> None:
        self._daemon = daemon

    def connection_made(self, conn: Any) -> None:
        self._conn = conn
        without_ignore_packets(conn)
        self._daemon.connections.append(conn)

    def connection_lost(self, exc: Exception | None) -> None:
        self._daemon.connections.remove(self._conn)

    def begin_auth(self, username: str) -> bool:
        self._user = username
        return True

    def public_key_auth_supported(self) -> bool:
        return True

    def validate_public_key(self, username: str, key: Any) -> bool:
        return username == CLIENT and key == self._daemon.client_key.convert_to_public()

    def validate_ca_key(self, username: str, key: Any) -> bool:
        return username == CLIENT and key == self._daemon.client_key.convert_to_public()

    def auth_completed(self) -> None:
        self._daemon.logins += 1

    def session_requested(self) -> Any:
        return _Session(self._daemon)


class _Session(asyncssh.SSHServerSession[bytes]):
    def __init__(self, daemon: FakeDaemon) -> None:
        self._daemon = daemon
        self._channel = ServerChannel(Capability.CONTROL | Capability.EVENTS, daemon.max_open)
        self._held: list[tuple[int, bytes]] = []
        self._draining = False

    def connection_made(self, chan: Any) -> None:
        self._chan = chan

    def subsystem_requested(self, subsystem: str) -> bool:
        return subsystem == "hsmd"

    def session_started(self) -> None:
        self._daemon.sessions.append(self)

    def connection_lost(self, exc: Exception | None) -> None:
        if self in self._daemon.sessions:
            self._daemon.sessions.remove(self)

    def data_received(self, data: bytes, datatype: int | None) -> None:
        greeting = self._channel.state is State.GREETING
        frames = self._channel.receive(data)
        if self._daemon.faults.silent:
            return
        out = []
        if greeting and self._channel.state is State.OPEN:
            out.append(encode_welcome(self._channel.welcome()))
            del frames[0]
            if self._daemon.faults.drain_at_start:
                out.append(encode_drain(1000))
        for kind, request_id, body in frames:
            out.extend(self._answer(kind, request_id, body))
        if out:
            self.write(b"".join(out))

    def write(self, data: bytes) -> None:
        with contextlib.suppress(OSError):
            self._chan.write(data)

    def drain(self, grace_ms: int) -> None:
        self._draining = True
        self.write(encode_drain(grace_ms))

    def release(self) -> None:
        held, self._held = self._held, []
        self.write(b"".join(frame for request_id, body in held for frame in self._use(request_id, body)))

    def _answer(self, kind: int, request_id: int, body: bytes) -> list[bytes]:
        if kind == Kind.PING:
            return [encode(Kind.PONG, request_id)]
        if kind == Kind.KEY_OPERATION:
            self._daemon.operations.append(decode_key_operation(body))
            if self._daemon.faults.hold:
                self._held.append((request_id, body))
                return []
            return self._use(request_id, body)
        if kind == Kind.CANCEL:
            self._daemon.cancelled.append(request_id)
            held = [item for item in self._held if item[0] == request_id]
            self._held = [item for item in self._held if item[0] != request_id]
            return [encode_error(request_id, NotFound("cancelled")) for _ in held]
        if kind == Kind.CONTROL_REQUEST:
            return [self._control(request_id, body)]
        return []

    def _use(self, request_id: int, body: bytes) -> list[bytes]:
        faults = self._daemon.faults
        operation = decode_key_operation(body)
        if self._draining:
            return [encode_error(request_id, Draining())]
        if faults.refuse is not None:
            return [encode_error(request_id, faults.refuse)]
        if faults.foreign_answer:
            return [encode(Kind.RESULT, request_id + 1000, b"not yours")]
        key = self._daemon.keys.get(operation.key)
        if faults.answer is None and key is None:
            return [encode_error(request_id, Refused())]
        answer = faults.answer(operation) if faults.answer else sign(key.private, operation)  # type: ignore[union-attr]
        frame = encode(Kind.RESULT, request_id, answer)
        return [frame[: len(frame) // 2] if faults.half_frames else frame]

    def _control(self, request_id: int, body: bytes) -> bytes:
        try:
            request = messages.decode_request(decode_control_request(body)[1])
            if isinstance(request, messages.AuditCheckpoint):  # sent on every connection
                return encode(
                    Kind.CONTROL_RESULT, request_id, messages.encode_result(self._checkpoint(request.since))
                )
            if isinstance(request, messages.HealthRead):  # sent regularly
                if self._daemon.health is None:
                    raise BadRequest("control request: Invalid value 'health.read' - at `$.op`")
                return encode(Kind.CONTROL_RESULT, request_id, messages.encode_result(self._daemon.health))
            self._daemon.requests.append(request)
            return encode(
                Kind.CONTROL_RESULT, request_id, messages.encode_result(self._control_result(request))
            )
        except HsmdError as error:
            return encode_error(request_id, error)

    def _checkpoint(self, since: int) -> messages.SignedCheckpoint:
        log = self._daemon.log
        if log is None:
            return messages.SignedCheckpoint("", [], "", [])
        proof = log.proof(since) if since <= log.size else []
        return messages.SignedCheckpoint(
            log.note(), proof, log.signer.verifier.vkey, self._daemon.discontinuities
        )

    def _control_result(self, request: messages.Request) -> Any:
        keys = {key.name: key for key in self._daemon.keys.values()}
        if isinstance(request, messages.WhoAmI):
            return messages.Identity(CLIENT, "front-end", "SHA256:test", "fake")
        if isinstance(request, messages.KeyList):
            names = sorted(name for name in keys if name > request.after)
            return messages.KeyPage(
                [keys[name].info for name in names[: request.limit]], len(names) > request.limit
            )
        if isinstance(request, messages.KeyShow) and request.name in keys:
            return keys[request.name].info
        if (
            isinstance(request, messages.CertificateExport)
            and request.key in keys
            and keys[request.key].chain
        ):
            return messages.PemDocument(keys[request.key].chain)
        if isinstance(request, messages.CertificateChains):
            page = ChainPageBuilder(MAX_RESULT_BYTES)
            for name in request.keys:
                info = keys[name].info if name in keys else None
                if not page.add(
                    name, keys[name].chain if info else "", info.certificate_mark if info else ""
                ):
                    break
            return page.page()
        raise Refused


def sign(private: PrivateKeyTypes, operation: KeyOperation) -> bytes:
    """The answer that a token would give."""
    if operation.purpose == Purpose.TLS12_RSA_PREMASTER:
        return hashlib.sha384(operation.data).digest()
    facts = SignatureScheme(operation.scheme).facts
    if isinstance(private, ed25519.Ed25519PrivateKey):
        return private.sign(operation.data)
    algorithm: Any = {"sha256": hashes.SHA256, "sha384": hashes.SHA384, "sha512": hashes.SHA512}[facts.hash]()
    used = Prehashed(algorithm) if operation.purpose == Purpose.SIGN_DIGEST else algorithm
    if facts.family is Family.EC:
        assert isinstance(private, ec.EllipticCurvePrivateKey)
        return private.sign(operation.data, ec.ECDSA(used))
    assert isinstance(private, rsa.RSAPrivateKey)
    pss = padding.PSS(padding.MGF1(algorithm), padding.PSS.DIGEST_LENGTH)
    return private.sign(operation.data, pss if facts.padding is Padding.PSS else padding.PKCS1v15(), used)


def public_line(key: Any) -> str:
    """An asyncssh key as an OpenSSH public key line."""
    return str(key.export_public_key().decode().strip())
