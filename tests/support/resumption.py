"""Files of a TLS server before and behind a change of its authority, and a client that keeps its sessions."""

from __future__ import annotations

import datetime as dt
import os
import socket
import ssl
from dataclasses import dataclass
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import ec

from tests.support.authority import Authority, private_pem
from tests.support.tls_client import TIMEOUT_S, VERSIONS

HOST = "127.0.0.1"
NAME = "localhost"


@dataclass(frozen=True, slots=True)
class Speech:
    """What a client says before its ClientHello and behind the handshake, and what the answer has in its first line."""

    preface: bytes
    question: bytes
    answer: bytes


HTTP = Speech(b"", b"GET / HTTP/1.0\r\nHost: localhost\r\n\r\n", b" 200 ")
_USER = b"\0\3\0\0user\0postgres\0database\0postgres\0\0"
POSTGRESQL = Speech(
    bytes.fromhex("0000000804d2162f"),
    (len(_USER) + 4).to_bytes(4, "big") + _USER + b"X\0\0\0\4",
    b"R\0\0\0\x08\0\0\0\0",
)
"""SSLRequest; StartupMessage and Terminate; AuthenticationOk (PostgreSQL, Message Formats)."""


class Files:
    """What a server loads: `chain.pem`, `key.pem`, `combined.pem` of both, `anchors.pem` and `lists.pem`.

    There are two authorities, "old" and "new", with one name or with two. The server begins with a certificate of the
    old one and trusts both, as in the middle of a rollover.
    """

    def __init__(self, directory: Path, *, one_name: bool = False) -> None:
        self.directory = directory
        self._authorities: dict[str, Authority] = {}
        self._issued: dict[tuple[str, str], tuple[str, str]] = {}
        self._age = dt.timedelta(hours=1)
        for number, generation in enumerate(("old", "new"), 1):
            (directory / generation).mkdir()
            name = "Example root" if one_name else f"Example root {number}"
            self._authorities[generation] = Authority(directory / generation, name)
            for role in ("server", "client"):
                self._issue(generation, role)
        self.show("old")
        self.trust("old", "new")
        self.revoke()

    def path(self, name: str) -> Path:
        return self.directory / name

    def show(self, generation: str) -> None:
        """Give the server the certificate of this authority, and another key."""
        chain, key = self._issued[generation, "server"]
        self._write("chain.pem", chain)
        self._write("key.pem", key)
        self._write("combined.pem", chain + key)

    def trust(self, *generations: str) -> None:
        """Let the server trust these authorities only."""
        self._write("anchors.pem", "".join(self._authorities[name].file.read_text() for name in generations))

    def revoke(self, *generations: str) -> None:
        """Revoke the client's certificates of these authorities only, in lists that are newer than those before."""
        self._age -= dt.timedelta(minutes=1)
        lists = ""
        for name, authority in self._authorities.items():
            revoked = [self._issued[name, "client"][0]] if name in generations else []
            lists += authority.revocation_list(*revoked, made=self._age)
        self._write("lists.pem", lists)

    def apply(self, change: str) -> None:
        """`certificate`, `anchors` (the old one is removed), `all` of these, or `lists` (the old client is revoked)."""
        if change in ("certificate", "all"):
            self.show("new")
        if change in ("anchors", "all"):
            self.trust("new")
        if change == "lists":
            self.revoke("old")

    def client_context(self, generation: str, version: str) -> ssl.SSLContext:
        """A client with a certificate of this authority, which trusts servers of both."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        for authority in self._authorities.values():
            context.load_verify_locations(authority.file)
        context.minimum_version = context.maximum_version = VERSIONS[version]
        context.load_cert_chain(self.path(f"{generation}/client.pem"), self.path(f"{generation}/client.key"))
        return context

    def _issue(self, generation: str, role: str) -> None:
        key = ec.generate_private_key(ec.SECP256R1())
        authority = self._authorities[generation]
        pem = authority.issue(key.public_key(), NAME, client=role == "client")
        self._issued[generation, role] = pem, private_pem(key).decode()
        self._write(f"{generation}/{role}.pem", pem)
        self._write(f"{generation}/{role}.key", private_pem(key).decode())

    def _write(self, name: str, text: str) -> None:
        made = self.directory / f"{name}.new"
        made.write_text(text)
        made.chmod(0o600)
        os.replace(made, self.directory / name)


@dataclass(frozen=True, slots=True)
class Visit:
    """`resumed`: no certificate was verified. `served`: the server answered this client. `shown`: the server's certificate."""

    resumed: bool
    served: bool
    shown: bytes = b""
    session: ssl.SSLSession | None = None


REFUSED = Visit(False, False)
"""The connection was ended in the handshake or before an answer."""


class Client:
    """A client that offers sessions. `way`: TLS 1.2 with a ticket ("1.2"), with a session ID ("1.2-id"), or "1.3"."""

    def __init__(
        self, files: Files, port: int, way: str, generation: str = "old", speech: Speech = HTTP
    ) -> None:
        self._port, self._speech = port, speech
        self._context = files.client_context(generation, way.partition("-")[0])
        if way == "1.2-id":
            self._context.options |= ssl.OP_NO_TICKET

    def visit(self, session: ssl.SSLSession | None = None) -> Visit:
        """Make a handshake, offer this session in it, and ask. REFUSED if the server ends the connection."""
        with socket.create_connection((HOST, self._port), timeout=TIMEOUT_S) as raw:
            if self._speech.preface:
                raw.sendall(self._speech.preface)
                assert raw.recv(1) == b"S"
            try:
                with self._context.wrap_socket(raw, server_hostname=NAME, session=session) as tls:
                    return self._ask(tls)
            except (ssl.SSLError, ConnectionResetError, BrokenPipeError):
                return REFUSED

    def _ask(self, tls: ssl.SSLSocket) -> Visit:
        tls.sendall(self._speech.question)
        answer = b"".join(iter(lambda: tls.recv(4096), b""))
        served = self._speech.answer in answer.partition(b"\r\n")[0]
        return Visit(bool(tls.session_reused), served, tls.getpeercert(binary_form=True) or b"", tls.session)
