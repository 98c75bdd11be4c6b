"""Sessions of before a change of certificate, anchors or revocation lists are not resumed behind the step that ends them.

Whoever resumes a session verifies no certificate, and is verified by none. Each case begins with sessions that are
resumed, takes steps that leave them so where there are any, and then the step that ends them (docs/node.md).
"""

from __future__ import annotations

import ssl
import subprocess
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from tests.support.polling import wait_until
from tests.support.processes import program
from tests.support.resuming_postgresql import running_postgresql
from tests.support.resuming_python import Python
from tests.support.resuming_servers import Apache, Haproxy, HaproxyRelay, Nginx, NginxRelay
from tests.support.resumption import NAME, POSTGRESQL, REFUSED, Client, Files

TICKETS = ("1.2", "1.3")
ALL = ("1.2", "1.2-id", "1.3")

# Server, what keeps sessions, how clients offer them, what is changed, the steps that leave sessions, the step that ends them.
CASES = [
    (Nginx, "default", TICKETS, "all", [], "reload"),
    (Nginx, "default", TICKETS, "lists", [], "reload"),
    (Nginx, "cache", ALL, "certificate", [], "reload"),
    (Nginx, "cache", ALL, "anchors", [], "reload"),
    (Nginx, "cache", ALL, "anchors of one name", ["reload"], "restart"),
    (Nginx, "cache", ALL, "lists", ["reload"], "restart"),
    (Nginx, "both", ALL, "all", [], "reload"),
    (Nginx, "both", ALL, "lists", [], "restart"),
    (Nginx, "key-file", TICKETS, "anchors", [], "reload"),
    (Nginx, "key-file", TICKETS, "anchors of one name", ["reload", "restart"], "new ticket key"),
    (Nginx, "key-file", TICKETS, "lists", ["reload", "restart"], "new ticket key"),
    (Haproxy, "default", ALL, "all", ["run-time"], "reload"),
    (Haproxy, "cache", ALL, "all", ["run-time"], "reload"),
    (Haproxy, "key-file", TICKETS, "all", ["run-time", "reload", "restart"], "new ticket key"),
    (Apache, "default", ALL, "all", [], "reload"),
    (Apache, "default", ALL, "lists", [], "reload"),
    (Apache, "cache", ALL, "all", [], "reload"),
    # A reload or restart alone leaves most sessions, but not with each release of OpenSSL.
    (Apache, "key-file", TICKETS, "all", [], "new ticket key"),
    # Whether session IDs of TLS 1.2 are resumed without tickets differs with the release of Python.
    (Python, "default", TICKETS, "lists", ["reload"], "new-context"),
    (Python, "default", TICKETS, "all", [], "new-context"),
]


@pytest.fixture
def files(root: Path, request: pytest.FixtureRequest) -> Files:
    """What the server loads; both authorities have one name if the test's `change` says so."""
    parameters = request.node.callspec.params if hasattr(request.node, "callspec") else {}
    return Files(root, one_name="one name" in parameters.get("change", ""))


@pytest.mark.parametrize(
    ("kind", "setup", "ways", "change", "leaving", "ending"),
    CASES,
    ids=[f"{kind.__name__.lower()}-{setup}-{change}" for kind, setup, _, change, _, _ in CASES],
)
def test_a_session_of_before_ends(
    files: Files,
    kind: type[Nginx | Haproxy | Apache | Python],
    setup: str,
    ways: tuple[str, ...],
    change: str,
    leaving: list[str],
    ending: str,
) -> None:
    if change.startswith("anchors"):
        files.show("new")
    with closing(kind(files, setup)) as server:
        clients = {way: Client(files, server.port, way) for way in ways}
        held = {way: [client.visit() for _ in range(len(leaving) + 2)] for way, client in clients.items()}
        assert all(visit.served and not visit.resumed for visits in held.values() for visit in visits)

        def offer() -> dict[str, tuple[bool, bool]]:
            visits = {way: client.visit(held[way].pop().session) for way, client in clients.items()}
            return {way: (visit.resumed, visit.served) for way, visit in visits.items()}

        assert offer() == dict.fromkeys(ways, (True, True))
        files.apply(change.partition(" ")[0])
        for step in leaving:
            server.steps[step]()
            assert offer() == dict.fromkeys(ways, (True, True)), step
            assert _served(files, server.port, "old") == (change == "certificate"), step
        server.steps[ending]()
        assert offer() == dict.fromkeys(ways, (False, change == "certificate"))
        assert _served(files, server.port, "new"), "others are served"


def _served(files: Files, port: int, generation: str) -> bool:
    """Whether a client that has no session is served."""
    return Client(files, port, "1.3", generation).visit().served


def test_a_python_server_without_sessions(files: Files) -> None:
    """`num_tickets = 0` is for TLS 1.3; TLS 1.2 has sessions as before."""
    with closing(Python(files, "no-tickets")) as server:
        resumed = {}
        for way in TICKETS:
            client = Client(files, server.port, way)
            resumed[way] = client.visit(client.visit().session).resumed
        assert resumed == {"1.2": True, "1.3": False}


@pytest.mark.parametrize("way", ALL)
def test_postgresql_resumes_nothing(files: Files, way: str) -> None:
    with running_postgresql(files) as (port, reload):
        client = Client(files, port, way, speech=POSTGRESQL)
        first = client.visit()
        assert first.served and first.session is not None and not first.session.has_ticket
        assert way == "1.3" or first.session.id == b"", "no session ID that a cache would know"
        again = client.visit(first.session)
        assert (again.resumed, again.served) == (False, True)
        files.apply("all")
        reload()
        newer = Client(files, port, way, "new", speech=POSTGRESQL)
        wait_until(lambda: newer.visit().shown not in (b"", first.shown), "it shows the new certificate")
        assert client.visit(first.session) == REFUSED


@pytest.fixture
def upstream(files: Files) -> Iterator[Python]:
    """A server of the old authority, which asks for no certificates. What `files` has afterwards is for its clients."""
    with closing(Python(files, "no-clients")) as server:
        yield server


@pytest.mark.parametrize("version", TICKETS)
def test_curl_keeps_sessions_for_one_command(files: Files, upstream: Python, version: str) -> None:
    """In one command the second connection is resumed although its server would be refused; the next command refuses it."""
    url = f"https://{NAME}:{upstream.port}/"
    command = [program("curl"), "--silent", "--cacert", str(files.path("anchors.pem")), "--tls-max", version]
    options: list[tuple[list[str], int, list[bool]]] = [
        ([], 0, [False, True]),
        (["--no-sessionid"], 60, [False]),
    ]
    for more, status, seen in options:
        files.trust("old", "new")
        upstream.seen.clear()
        upstream.on_request = lambda: files.trust("new")
        done = subprocess.run([*command, *more, url, url], capture_output=True, timeout=30, check=False)
        assert (done.returncode, upstream.seen) == (status, seen)
        assert (
            subprocess.run([*command, *more, url], capture_output=True, timeout=30, check=False).returncode
            == 60
        )


def test_python_keeps_what_it_is_told_to_keep(files: Files, upstream: Python) -> None:
    """urllib resumes nothing, and a session belongs to one context: one that is made anew cannot resume it."""
    url = f"https://{NAME}:{upstream.port}/"
    context = ssl.create_default_context(cafile=files.path("anchors.pem"))
    for _ in range(2):
        urllib.request.urlopen(url, context=context, timeout=10).close()
    assert upstream.seen == [False, False]
    kept = Client(files, upstream.port, "1.3")
    session = kept.visit().session
    assert kept.visit(session).resumed
    with pytest.raises(ValueError, match="different SSLContext"):
        Client(files, upstream.port, "1.3").visit(session)


@pytest.mark.parametrize(("relay", "leaving"), [(NginxRelay, []), (HaproxyRelay, ["run-time"])])
def test_a_relay_verifies_its_server_again(
    files: Files,
    upstream: Python,
    relay: Callable[[Files, int], NginxRelay | HaproxyRelay],
    leaving: list[str],
) -> None:
    """nginx and HAProxy keep sessions with servers behind them, and forget them in a reload."""
    with closing(relay(files, upstream.port)) as server:
        url = f"http://{NAME}:{server.port}/"
        assert [_status(url), _status(url), upstream.seen[:2]] == [200, 200, [False, True]]
        files.trust("new")
        for step in leaving:
            server.steps[step]()
            assert (_status(url), upstream.seen[-1]) == (200, True)
        server.reload()
        assert _status(url) in (502, 503)


def _status(url: str) -> int:
    command = [program("curl"), "--silent", "--output", "/dev/null", "--write-out", "%{http_code}", url]
    return int(subprocess.run(command, capture_output=True, timeout=30, check=True).stdout)
