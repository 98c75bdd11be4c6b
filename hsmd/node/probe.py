"""Full handshakes that a node makes: a server with itself and through its own front door, a client with each of its servers.

Nothing is resumed and nothing is tried again: what a probe sees is what the next new connection gets. A handshake of TLS 1.3 has
succeeded for the client before the server looks at its certificate, so a probe also says something, and hears the answer.
"""

from __future__ import annotations

import hashlib
import socket
import ssl
import subprocess
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from hsmd.node.programs import ANCHORS, CHAIN, KEY
from hsmd.system.addresses import join_address

AT_A_TIME = 16
QUIET_S = 0.5
"""How long a server that waits for its client is given to refuse a certificate."""
_LONGEST_ERROR = 300
_SSL_REQUEST = (8).to_bytes(4) + (80_877_103).to_bytes(4)
"""PostgreSQL, "Message Formats": SSLRequest."""
_PROTOCOL_3 = (196_608).to_bytes(4)
_MOST_BYTES = 4_096


class Whose(Enum):
    """What a probe expects to be shown: this node's own certificate, or a valid one of a counterpart."""

    OWN = "own"
    COUNTERPART = "counterpart"


class Speech(Enum):
    """What is said before and behind the handshake."""

    HTTP = "http"
    POSTGRESQL = "postgresql"
    TLS = "tls"
    """Nothing: a server that refuses the client certificate ends the connection at once."""


@dataclass(frozen=True, slots=True)
class Probe:
    """A handshake with `host` under `name`, or a `command` that makes one and exits with 0."""

    whose: Whose
    host: str = ""
    port: int = 0
    name: str = ""
    speech: Speech = Speech.TLS
    command: tuple[str, ...] = ()
    timeout_s: int = 10

    @property
    def text(self) -> str:
        """For people: `www.example.com at 192.0.2.1:443`, or the command."""
        return " ".join(self.command) or f"{self.name} at {join_address(self.host, self.port)}"


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of a probe: `error` is empty for success; `leaf` is the SHA-256 of the certificate shown, hexadecimal."""

    probe: str
    error: str
    leaf: str = ""


class ProbeFailed(Exception):
    """The handshake is not as it should be; the text says why."""


def probe_all(probes: Sequence[Probe], files: Path, leaf: str) -> list[Outcome]:
    """Make all handshakes, some at a time, with the files of a version; `leaf` is the SHA-256 of its certificate."""
    if not probes:
        return []
    with ThreadPoolExecutor(min(AT_A_TIME, len(probes))) as threads:
        return list(threads.map(lambda each: probe(each, files, leaf), probes))


def probe(wanted: Probe, files: Path, leaf: str) -> Outcome:
    """Make one handshake. Whatever goes wrong is in the outcome."""
    if wanted.command:
        return Outcome(wanted.text, _run(wanted))
    shown = ""
    try:
        plain = socket.create_connection((wanted.host, wanted.port), timeout=wanted.timeout_s)
        with _within(wanted.timeout_s, plain), _secured(plain, wanted, files) as connection:
            shown = hashlib.sha256(connection.getpeercert(True) or b"").hexdigest()
            if wanted.whose is Whose.OWN and shown != leaf:
                raise ProbeFailed("another certificate than the one that is installed is served")
            _talk(connection, wanted)
    except TimeoutError:
        return Outcome(wanted.text, f"no answer within {wanted.timeout_s} s", shown)
    except ssl.SSLError as error:
        return Outcome(wanted.text, _reason(error), shown)
    except (ProbeFailed, ValueError) as error:
        return Outcome(wanted.text, str(error), shown)
    except OSError as error:
        return Outcome(wanted.text, error.strerror or str(error), shown)
    return Outcome(wanted.text, "", shown)


@contextmanager
def _within(timeout_s: float, plain: socket.socket) -> Iterator[None]:
    """End a connection after this time. Raises TimeoutError then.

    The limits of sockets are for one step each, and OpenSSL reads on within a step for as long as a server sends records that
    carry no data, such as session tickets.
    """
    over = threading.Event()
    watched = plain.dup()  # the handshake takes the descriptor away

    def end() -> None:
        over.set()
        with suppress(OSError):
            watched.shutdown(socket.SHUT_RDWR)

    timer = threading.Timer(timeout_s, end)
    timer.daemon = True
    timer.start()
    try:
        yield
    except (OSError, ProbeFailed):
        if over.is_set():
            raise TimeoutError from None
        raise
    finally:
        timer.cancel()
        timer.join()
        watched.close()


def _secured(plain: socket.socket, wanted: Probe, files: Path) -> ssl.SSLSocket:
    """The connection behind its handshake. Raises OSError, ssl.SSLError among them, and ProbeFailed."""
    try:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.load_verify_locations(files / ANCHORS)
        if _is_private_key(files / KEY):
            context.load_cert_chain(files / CHAIN, files / KEY)
        if wanted.speech is Speech.POSTGRESQL:
            plain.sendall(_SSL_REQUEST)
            if plain.recv(1) != b"S":
                raise ProbeFailed("PostgreSQL offers no TLS there")
        return context.wrap_socket(plain, server_hostname=wanted.name)
    except BaseException:
        plain.close()
        raise


def _is_private_key(path: Path) -> bool:
    """A key in a token, or behind an agent, is one of the program's: the probe has no certificate of its own then."""
    try:
        return b"PRIVATE KEY" in path.read_bytes()
    except FileNotFoundError:
        return False


def _talk(connection: ssl.SSLSocket, wanted: Probe) -> None:
    """Say something, and hear whether the server accepts the certificate of this node. Raises OSError and ProbeFailed."""
    if wanted.speech is Speech.HTTP:
        connection.sendall(f"HEAD / HTTP/1.1\r\nHost: {wanted.name}\r\nConnection: close\r\n\r\n".encode())
        words = connection.recv(_MOST_BYTES).split(b"\r\n", 1)[0].split(b" ")
        if len(words) < 2 or not words[0].startswith(b"HTTP/"):
            raise ProbeFailed("the server does not answer in HTTP; say what it speaks: speaks = ...")
        if words[1] == b"400" and wanted.whose is Whose.COUNTERPART:
            raise ProbeFailed("the server answers 400, as nginx does to a client certificate that it refuses")
    elif wanted.speech is Speech.POSTGRESQL:
        parameters = b"user\0hsmd-node\0database\0hsmd-node\0\0"
        length = len(_PROTOCOL_3) + len(parameters) + 4
        connection.sendall(length.to_bytes(4) + _PROTOCOL_3 + parameters)
        # An alert comes in place of an answer. That there is no such user is an answer.
        if not connection.recv(_MOST_BYTES):
            raise ProbeFailed("PostgreSQL ended the connection behind the handshake")
    else:
        _listen(connection)


def _listen(connection: ssl.SSLSocket) -> None:
    """Wait a moment: an alert raises ssl.SSLError, and an end of the connection is a refusal, too."""
    connection.settimeout(QUIET_S)
    try:
        if connection.recv(1) == b"":
            raise ProbeFailed("the server ended the connection behind the handshake")
    except TimeoutError:
        return


def _run(wanted: Probe) -> str:
    try:
        done = subprocess.run(
            wanted.command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
            errors="replace", timeout=wanted.timeout_s, check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return f"not done after {wanted.timeout_s} s"
    except OSError as error:
        return f"{error.strerror}"
    said = " ".join(done.stderr.split())[-_LONGEST_ERROR:]
    return "" if done.returncode == 0 else f"exit code {done.returncode}: {said or 'it said nothing'}"


def _reason(error: ssl.SSLError) -> str:
    """What OpenSSL says, without the place in its source."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"the certificate shown is not valid: {error.verify_message}"
    return (error.reason or str(error)).replace("_", " ").lower()[:_LONGEST_ERROR]
