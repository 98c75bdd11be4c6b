"""A TLS server whose agent is down, slow or misbehaves: it fails in bounded time, with the cause, and without a crash."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import provider_handshakes
from tests.support.fake_agent import Agent, Fault
from tests.support.provider import Environment, Identity

TIMEOUT_MS = 300
ONE_BY_ONE = """
import json, sys, provider_handshakes
for line in sys.stdin:
    print(json.dumps(provider_handshakes.timed(json.loads(line))), flush=True)
"""
BOUND_S = 5.0
"""The deadline, the start of a program, and slack for a busy machine."""
ASAN = {"ASAN_OPTIONS": "detect_leaks=1"}


@pytest.fixture
def stopped_agent(environment: Environment, identities: dict[str, Identity]) -> Iterator[Agent]:
    """An agent that is not started, whose findings do not fail the test."""
    agent = Agent(environment.socket, [identity.key for identity in identities.values()])
    yield agent
    agent.stop()


class Signer:
    """Signs once per call with the sanitized build; returns the driver's output and the duration in seconds."""

    def __init__(self, environment: Environment, driver: Path, module: Path) -> None:
        self._environment = environment
        self._driver = driver
        self._module = module

    def __call__(self, identity: Identity, timeout_ms: int = TIMEOUT_MS) -> tuple[str, float]:
        digest = "-" if identity.name == "ed25519" else "SHA256"
        configuration = self._environment.configuration(timeout_ms, module=self._module)
        began = time.monotonic()
        done = self._environment.run(
            [self._driver, "sign", identity.reference, digest, "0", "text"], configuration, environment=ASAN
        )
        seconds = time.monotonic() - began
        assert done.returncode == 0, done.stderr
        return done.stdout.splitlines()[0], seconds


@pytest.fixture
def sign(environment: Environment, sanitized_evp_driver: Path, sanitized_module: Path) -> Signer:
    """One signature through libcrypto, with sanitizers."""
    return Signer(environment, sanitized_evp_driver, sanitized_module)


FAULTS = [
    (Fault.SILENT, "deadline passed", True),
    (Fault.SILENT_AFTER_WELCOME, "deadline passed", True),
    (Fault.HALF_ANSWER, "deadline passed", True),
    (Fault.HUGE_LENGTH, "protocol error", False),
    (Fault.TINY_LENGTH, "protocol error", False),
    (Fault.NO_WELCOME, "protocol error", False),
    (Fault.OTHER_VERSION, "protocol error", False),
    (Fault.OTHER_REQUEST, "protocol error", False),
    (Fault.UNKNOWN_KIND, "protocol error", False),
    (Fault.CLOSE_AT_ONCE, "agent closed the connection", False),
    (Fault.CLOSE_AFTER_WELCOME, "agent closed the connection", False),
    (Fault.ERROR_BEFORE_READING, "overloaded", False),
    (Fault.MEGABYTE_ANSWER, "invalid answer", False),
]


@pytest.mark.parametrize(("fault", "reason", "waits"), FAULTS)
def test_misbehaving_agents(
    stopped_agent: Agent,
    sign: Signer,
    identities: dict[str, Identity],
    fault: Fault,
    reason: str,
    waits: bool,
) -> None:
    stopped_agent.fault = fault
    stopped_agent.start()
    line, seconds = sign(identities["p256"])
    assert line.startswith(f"error {reason}: key key-p256: ")
    assert seconds < BOUND_S
    assert not waits or seconds >= TIMEOUT_MS / 1000


@pytest.mark.parametrize("name", ["rsa", "p256", "ed25519"])
@pytest.mark.parametrize("fault", [Fault.SHORT_ANSWER, Fault.LONG_ANSWER, Fault.NOT_DER])
def test_answers_of_the_wrong_shape(
    stopped_agent: Agent, sign: Signer, identities: dict[str, Identity], fault: Fault, name: str
) -> None:
    """A misbehaving agent cannot make the server send a signature of the wrong length, or overflow a buffer."""
    stopped_agent.fault = fault
    stopped_agent.start()
    line, _ = sign(identities[name])
    if fault is Fault.NOT_DER and name != "p256":  # of the right length: only the TLS peer can detect it
        assert line.startswith("signature 0000")
    else:
        assert line.startswith("error invalid answer: ")


@pytest.mark.parametrize(
    ("code", "text", "line"),
    [
        (10, b"not this key", "error refused: key key-p256: not this key (agent's error 10)"),
        (11, b"a CSR", "error purpose not allowed: key key-p256: a CSR (agent's error 11)"),
        (20, b"no daemon", "error no daemon available: key key-p256: no daemon (agent's error 20)"),
        (21, b"queue", "error overloaded: key key-p256: queue (agent's error 21)"),
        (22, b"late", "error deadline passed: key key-p256: late (agent's error 22)"),
        (23, b"bye", "error daemon is going away: key key-p256: bye (agent's error 23)"),
        (30, b"slot 3", "error token failure: key key-p256: slot 3 (agent's error 30)"),
        (31, b"disk", "error audit log failure: key key-p256: disk (agent's error 31)"),
        (32, b"db", "error store unreachable: key key-p256: db (agent's error 32)"),
        (
            40,
            b"\xe2\x98\xba\x07",
            "error internal error of the daemon: key key-p256: ???? (agent's error 40)",
        ),
        (77, b"new", "error request failed: key key-p256: new (agent's error 77)"),
    ],
)
def test_errors_of_the_agent_are_reported(
    stopped_agent: Agent, sign: Signer, identities: dict[str, Identity], code: int, text: bytes, line: str
) -> None:
    stopped_agent.error = (code, text)
    stopped_agent.start()
    assert sign(identities["p256"])[0] == line


def test_unrelated_frames_are_ignored(agent: Agent, sign: Signer, identities: dict[str, Identity]) -> None:
    """Pings, events, drain notices, unknown optional frames and single bytes do not affect the answer."""
    agent.fault = Fault.CHATTY
    line, _ = sign(identities["p256"], timeout_ms=5000)
    assert line.startswith("signature 30")


def test_no_socket_and_no_listening_process(
    environment: Environment, stopped_agent: Agent, sign: Signer, identities: dict[str, Identity]
) -> None:
    line, seconds = sign(identities["p256"], timeout_ms=10_000)
    assert line.startswith("error agent unreachable: ")
    assert "there is no such socket" in line
    stopped_agent.start()
    environment.socket.rename(environment.socket.with_suffix(".kept"))
    stopped_agent.stop()
    environment.socket.with_suffix(".kept").rename(environment.socket)
    line, more = sign(identities["p256"], timeout_ms=10_000)
    assert "no process listens on it" in line
    assert seconds + more < 2 * BOUND_S


def test_full_backlog(stopped_agent: Agent, sign: Signer, identities: dict[str, Identity]) -> None:
    """No process accepts: the first callers wait in the backlog for an answer, later ones for a free entry in it."""
    stopped_agent.start(accepting=False, backlog=1)
    waiting = [socket.socket(socket.AF_UNIX) for _ in range(2)]
    for one in waiting:
        one.connect(str(stopped_agent.path))
    line, seconds = sign(identities["p256"])
    for one in waiting:
        one.close()
    assert line.startswith("error deadline passed: ")
    assert "did not accept in time" in line
    assert TIMEOUT_MS / 1000 <= seconds < BOUND_S


def test_agent_stops_and_starts_under_a_running_process(
    environment: Environment, stopped_agent: Agent, identities: dict[str, Identity]
) -> None:
    """In one process, keys load without the agent, and handshakes succeed whenever it runs."""
    certificate, reference = str(identities["p256"].certificate), str(identities["p256"].reference)
    case = {"certificate": certificate, "key": reference, "trust": certificate, "version": "1.3"}
    process = subprocess.Popen(
        [sys.executable, "-c", ONE_BY_ONE],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={
            "OPENSSL_CONF": str(environment.configuration(TIMEOUT_MS)),
            "PYTHONPATH": str(Path(provider_handshakes.__file__).parent),
        },
    )
    assert process.stdin is not None
    assert process.stdout is not None

    outcomes = []
    for change in (None, stopped_agent.start, stopped_agent.stop, stopped_agent.start):
        if change is not None:
            change()
        process.stdin.write(json.dumps(case) + "\n")
        process.stdin.flush()
        outcomes.append(json.loads(process.stdout.readline()))
    process.stdin.close()
    process.stdout.close()
    assert process.wait(10) == 0
    assert [outcome.get("version") for outcome in outcomes] == [None, "TLSv1.3", None, "TLSv1.3"]
    assert [outcome.get("end") for outcome in outcomes] == ["server", None, "server", None]


@pytest.mark.parametrize("fault", [Fault.SHORT_ANSWER, Fault.LONG_ANSWER, Fault.SILENT, Fault.CLOSE_AT_ONCE])
def test_rsa_key_exchange_fails_closed(
    environment: Environment, stopped_agent: Agent, identities: dict[str, Identity], fault: Fault
) -> None:
    """An answer of other than 48 bytes ends the handshake; the provider does not substitute a random secret."""
    stopped_agent.fault = fault
    stopped_agent.start()
    rsa = identities["rsa"]
    certificate = str(rsa.certificate)
    case = {"certificate": certificate, "key": str(rsa.reference), "trust": certificate, "version": "1.2"}
    (outcome,) = environment.handshakes(
        [{**case, "ciphers": "AES128-SHA256"}], environment.configuration(TIMEOUT_MS)
    )
    assert outcome["end"] == "server"
    assert outcome["seconds"] < BOUND_S
