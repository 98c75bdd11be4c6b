"""Probes against real TLS servers of Python: what they accept, what they say, and that they end."""

from __future__ import annotations

import socket
import ssl
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from hsmd.algorithms import KeyType
from hsmd.deployment.version_directories import Access
from hsmd.node import documents
from hsmd.node.documents import Kept
from hsmd.node.probe import Probe, Speech, Whose, probe, probe_all
from hsmd.node.programs import ANCHORS, CHAIN, KEY, PROGRAMS
from hsmd.node.tls_keys import TlsKey
from tests.support.node_authority import Clock, NodeAuthority

HOST = "www.example.com"


@pytest.fixture
def authority() -> NodeAuthority:
    return NodeAuthority(Clock(datetime.now(UTC).replace(microsecond=0)))


def make(directory: Path, authority: NodeAuthority) -> Kept:
    """The files of a node."""
    directory.mkdir()
    key = TlsKey.generate(KeyType.P256)
    leaf = authority.issue(load_pem_private_key(key.pem, None).public_key())
    kept = Kept(key, (leaf, authority.root()), tuple(authority.anchors))
    documents.write(directory, kept.files(PROGRAMS["nginx"]), Access())
    return kept


def context_of(files: Path, *, anchors: Path | None = None) -> ssl.SSLContext:
    """A server with these files; it demands client certificates below `anchors`."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(files / CHAIN, files / KEY)
    if anchors is not None:
        context.load_verify_locations(anchors)
        context.verify_mode = ssl.CERT_REQUIRED
    return context


def http(status: str) -> Callable[[ssl.SSLSocket], None]:
    def answer(connection: ssl.SSLSocket) -> None:
        while b"\r\n\r\n" not in connection.recv(4_096):
            pass
        connection.sendall(f"HTTP/1.1 {status}\r\n\r\n".encode())

    return answer


def wait(connection: ssl.SSLSocket) -> None:
    """Wait for the client, as a server does that is spoken to first."""
    connection.recv(1)


@contextmanager
def serving(
    context: ssl.SSLContext | None,
    talk: Callable[[ssl.SSLSocket], None] = wait,
    before: Callable[[socket.socket], None] = lambda _: None,
) -> Iterator[int]:
    """A server for one connection after the other; without a context it accepts and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        held = []

        def serve() -> None:
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                held.append(connection)
                if context is None:
                    continue
                with suppress(OSError):
                    before(connection)
                    with context.wrap_socket(connection, server_side=True) as secured:
                        talk(secured)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        try:
            yield listener.getsockname()[1]
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            for connection in held:
                connection.close()
            thread.join(10)
            assert not thread.is_alive()


def at(port: int, whose: Whose = Whose.OWN, speech: Speech = Speech.TLS, name: str = HOST) -> Probe:
    return Probe(whose, "127.0.0.1", port, name, speech, timeout_s=5)


def test_a_server_that_shows_its_own_certificate(tmp_path: Path, authority: NodeAuthority) -> None:
    mine = make(tmp_path / "a", authority)
    files = tmp_path / "a" / "current"
    with serving(context_of(files)) as port:
        outcome = probe(at(port), files, mine.leaf_digest)
    assert (outcome.error, outcome.leaf) == ("", mine.leaf_digest)


def test_a_server_that_still_shows_another_certificate(tmp_path: Path, authority: NodeAuthority) -> None:
    old, new = make(tmp_path / "a", authority), make(tmp_path / "b", authority)
    with serving(context_of(tmp_path / "a" / "current")) as port:
        outcome = probe(at(port), tmp_path / "b" / "current", new.leaf_digest)
    assert "another certificate" in outcome.error
    assert outcome.leaf == old.leaf_digest


def test_a_certificate_of_an_unknown_anchor(tmp_path: Path, authority: NodeAuthority) -> None:
    mine = make(tmp_path / "a", authority)
    make(tmp_path / "b", NodeAuthority(authority.clock, common_name="Another CA"))
    with serving(context_of(tmp_path / "b" / "current")) as port:
        outcome = probe(at(port), tmp_path / "a" / "current", mine.leaf_digest)
    assert outcome.error.startswith("the certificate shown is not valid: ")


def test_a_certificate_with_another_name(tmp_path: Path, authority: NodeAuthority) -> None:
    mine = make(tmp_path / "a", authority)
    files = tmp_path / "a" / "current"
    with serving(context_of(files)) as port:
        outcome = probe(at(port, name="db.example.com"), files, mine.leaf_digest)
    assert "db.example.com" in outcome.error


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
@pytest.mark.parametrize("speech", [Speech.TLS, Speech.HTTP])
def test_a_server_that_refuses_the_client_certificate(
    tmp_path: Path, authority: NodeAuthority, version: ssl.TLSVersion, speech: Speech
) -> None:
    mine = make(tmp_path / "a", authority)
    make(tmp_path / "b", NodeAuthority(authority.clock, common_name="Another CA"))
    files = tmp_path / "a" / "current"
    talk = http("200 OK") if speech is Speech.HTTP else wait
    refusing = context_of(files, anchors=tmp_path / "b" / "current" / ANCHORS)
    refusing.maximum_version = version
    with serving(refusing, talk) as port:
        outcome = probe(at(port, Whose.COUNTERPART, speech), files, mine.leaf_digest)
    assert outcome.error, "in TLS 1.3 the client's side of the handshake succeeds"
    accepting = context_of(files, anchors=files / ANCHORS)
    accepting.maximum_version = version
    with serving(accepting, talk) as port:
        assert probe(at(port, Whose.COUNTERPART, speech), files, mine.leaf_digest).error == ""


def test_answers_in_http(tmp_path: Path, authority: NodeAuthority) -> None:
    mine = make(tmp_path / "a", authority)
    files = tmp_path / "a" / "current"
    for status, whose, expected in (
        ("404 Not Found", Whose.COUNTERPART, ""),
        ("400 Bad Request", Whose.COUNTERPART, "as nginx does"),
        ("400 Bad Request", Whose.OWN, ""),
    ):
        with serving(context_of(files), http(status)) as port:
            error = probe(at(port, whose, Speech.HTTP), files, mine.leaf_digest).error
        assert expected in error if expected else error == ""
    with serving(context_of(files), lambda connection: connection.sendall(b"220 mail ESMTP\r\n")) as port:
        assert "speaks" in probe(at(port, speech=Speech.HTTP), files, mine.leaf_digest).error


def test_postgresql_is_asked_for_tls_first(tmp_path: Path, authority: NodeAuthority) -> None:
    mine = make(tmp_path / "a", authority)
    files = tmp_path / "a" / "current"

    def agree(connection: socket.socket) -> None:
        assert connection.recv(8) == bytes.fromhex("0000000804d2162f")
        connection.sendall(b"S")

    def refuse(connection: socket.socket) -> None:
        connection.recv(8)
        connection.sendall(b"N")

    def say(text: bytes) -> Callable[[ssl.SSLSocket], None]:
        def talk(connection: ssl.SSLSocket) -> None:
            connection.recv(100)
            connection.sendall(text)

        return talk

    wanted = at(0, Whose.COUNTERPART, Speech.POSTGRESQL)
    for before, text, expected in (
        (agree, b"R\0\0\0\x08\0\0\0\0", ""),
        (agree, b"E\0\0\0\x20SFATAL\0C28000\0Mrole does not exist\0", ""),
        (agree, b"", "ended the connection"),
        (refuse, b"", "offers no TLS"),
    ):
        with serving(context_of(files), say(text), before) as port:
            found = probe(at(port, wanted.whose, wanted.speech), files, mine.leaf_digest)
        assert expected in found.error if expected else found.error == ""


def test_a_server_that_never_answers_costs_the_time_limit(tmp_path: Path, authority: NodeAuthority) -> None:
    mine = make(tmp_path / "a", authority)
    with serving(None) as port:
        wanted = Probe(Whose.OWN, "127.0.0.1", port, HOST, Speech.TLS, timeout_s=1)
        assert probe(wanted, tmp_path / "a" / "current", mine.leaf_digest).error == "no answer within 1 s"


def test_a_server_that_is_slow_in_each_step_costs_the_time_limit_once(
    tmp_path: Path, authority: NodeAuthority
) -> None:
    mine = make(tmp_path / "a", authority)
    never = threading.Event()

    def delay(connection: socket.socket) -> None:
        connection.recv(8)
        never.wait(1.6)
        connection.sendall(b"S")
        never.wait(4)

    with serving(context_of(tmp_path / "a" / "current"), before=delay) as port:
        wanted = Probe(Whose.OWN, "127.0.0.1", port, HOST, Speech.POSTGRESQL, timeout_s=2)
        begun = time.monotonic()
        error = probe(wanted, tmp_path / "a" / "current", mine.leaf_digest).error
        took = time.monotonic() - begun
        never.set()
    assert error == "no answer within 2 s"
    assert took < 3


def test_what_does_not_listen_is_told(tmp_path: Path, authority: NodeAuthority) -> None:
    mine = make(tmp_path / "a", authority)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    assert probe(at(port), tmp_path / "a" / "current", mine.leaf_digest).error == "Connection refused"


def test_a_command_is_judged_by_its_exit_code(tmp_path: Path) -> None:
    def run(program: str) -> str:
        return probe(
            Probe(Whose.COUNTERPART, command=(sys.executable, "-c", program), timeout_s=5), tmp_path, ""
        ).error

    assert run("") == ""
    assert run("import sys; print('no route', file=sys.stderr); sys.exit(7)") == "exit code 7: no route"
    hung = Probe(
        Whose.COUNTERPART, command=(sys.executable, "-c", "import time; time.sleep(60)"), timeout_s=1
    )
    assert probe(hung, tmp_path, "").error == "not done after 1 s"
    missing = Probe(Whose.COUNTERPART, command=("/nonexistent/program",), timeout_s=1)
    assert probe(missing, tmp_path, "").error == "No such file or directory"


def test_outcomes_are_in_the_order_of_the_probes(tmp_path: Path, authority: NodeAuthority) -> None:
    mine = make(tmp_path / "a", authority)
    files = tmp_path / "a" / "current"
    with serving(context_of(files)) as port:
        wanted = [
            Probe(Whose.COUNTERPART, command=("/bin/false",)),
            at(port),
            Probe(Whose.COUNTERPART, command=("/bin/true",)),
        ]
        outcomes = probe_all(wanted, files, mine.leaf_digest)
    assert [each.probe for each in outcomes] == [each.text for each in wanted]
    assert [bool(each.error) for each in outcomes] == [True, False, False]
