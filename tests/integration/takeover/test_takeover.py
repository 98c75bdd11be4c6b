"""The new release takes over what an earlier one left on disk, and the earlier wheel works with the new daemon.

The fixtures are in tests/vectors/takeover; `make` there shows how they were made. They represent the installations of users:
a test that fails here shows a change that breaks these. Do not adapt the fixtures to it.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from tests.support.polling import wait_until
from tests.support.postgresql import Cluster
from tests.support.takeover import agent_socket
from tests.support.takeover.contents import as_before, contents
from tests.support.takeover.releases import (
    ANY_PORT,
    COMMAND_S,
    EXPECTED,
    PROBLEMS,
    ROOT,
    VECTORS,
    Daemon,
    Operator,
    Release,
    TakenOver,
    agent_running,
    log_bytes,
    operator,
    relocate,
    serving,
    unpack,
    use_granted,
)

SQLITE, POSTGRESQL = EXPECTED["sqlite"], EXPECTED["postgresql"]
GRANTED = {"www", "shop", "edge", "legacy", "documents", "imported"}
"""The keys that the enrolled agent may use."""
EXPORTED = ("www", "edge", "legacy")
"""Three of them, of different types; the last one has no certificate."""


def unpacked_agent(directory: Path, daemon: Daemon) -> Path:
    """Unpack the old agent's directory, and configure it for this daemon."""
    return unpack("agent", directory, {EXPECTED["address"]: daemon.address})


def verify(release: Release, log: Path, key: Path, *more: str | Path) -> dict[str, Any]:
    """The result of `hsmd audit verify` for a log on disk."""
    found: dict[str, Any] = release.ask(
        "audit", "verify", "--log", log, "--public-key", key, *more, codes=(0, PROBLEMS)
    )
    return found


def verify_independently(log: Path, key: Path, *more: str | Path) -> subprocess.CompletedProcess[str]:
    """Run the verifier that shares no code with hsmd."""
    line = [sys.executable, ROOT / "scripts" / "verify-audit", log, "--public-key", key, *more]
    return subprocess.run([*map(str, line)], capture_output=True, text=True, timeout=COMMAND_S, check=False)


def assert_both_verify(release: Release, log: Path, key: Path) -> dict[str, Any]:
    verdict = verify(release, log, key)
    assert verdict["intact"], verdict
    assert verdict["signatures_checked"] and verdict["open_attempts"] == 0
    again = verify_independently(log, key)
    assert again.returncode == 0, again.stdout + again.stderr
    return verdict


def key_file(directory: Path) -> Path:
    """A file with the verifier key of the daemons' logs, which was noted when they were made."""
    path = directory / "log.key"
    path.write_text(SQLITE["verifier_key"] + "\n")
    return path


def expect_continuation(old_facts: dict[str, Any], log: Path, old_log: bytes) -> None:
    """Check that the log begins with the old records unchanged, and that sealed segments are the same files."""
    grown = log_bytes(log)
    assert grown.startswith(old_log) and len(grown) > len(old_log)
    for name, digest in old_facts["segments"].items():
        assert hashlib.sha256((log / "segments" / name).read_bytes()).hexdigest() == digest, name


# --- the daemon directory ---


@pytest.mark.parametrize("what", ["keys", "clients", "grants", "owners", "revocations", "tokens"])
def test_the_daemon_has_the_same_contents(taken_over: TakenOver, what: str) -> None:
    assert as_before(taken_over.held[what], SQLITE[what]) == SQLITE[what]


def test_chains_decisions_and_the_key_of_the_log_are_the_same(taken_over: TakenOver) -> None:
    for name in ("chains", "explained", "counts", "identity", "verifier_key"):
        assert as_before(taken_over.held[name], SQLITE[name]) == SQLITE[name], name
    assert taken_over.held["verifier_key"] == POSTGRESQL["verifier_key"]


def test_the_log_verifies_and_continues(new: Release, tmp_path: Path) -> None:
    """Both verifiers accept old and new records, after the new daemon has used keys, sealed a segment and stopped."""
    directory, key = unpack("daemon", tmp_path, ANY_PORT), key_file(tmp_path)
    audit, facts = directory / "audit", SQLITE["log"]
    before = log_bytes(audit)
    assert assert_both_verify(new, audit, key) == facts["verdict"]
    with serving(new, directory) as daemon:
        found = operator(new, tmp_path, daemon)
        found.wait_for_token()
        with agent_running(new, unpacked_agent(tmp_path, daemon)) as sock:
            assert use_granted(sock, SQLITE) == GRANTED
        found.ask("audit", "seal", codes=(0,))
        found.ask("grant", "add", "never-enrolled", "shop", codes=(0,))
        daemon.stop()
    verdict = assert_both_verify(new, audit, key)
    assert verdict["records"] > facts["verdict"]["records"]
    assert verdict["checkpoints"] > facts["verdict"]["checkpoints"]
    assert len(list((audit / "segments").glob("*.jsonl"))) == len(facts["segments"]) + 1
    expect_continuation(facts, audit, before)
    # The new log contains the old head, but not an invented one, so this comparison can fail.
    records, head = facts["verdict"]["records"], facts["verdict"]["head"]
    assert verify(new, audit, key, "--expect", f"{records}:{head}")["intact"]
    assert not verify(new, audit, key, "--expect", f"{records}:{'0' * 64}")["intact"]


def test_both_verifiers_find_a_change_in_the_old_records(new: Release, tmp_path: Path) -> None:
    directory, key = unpack("daemon", tmp_path, ANY_PORT), key_file(tmp_path)
    segment = min((directory / "audit" / "segments").glob("*.jsonl"))
    segment.write_bytes(segment.read_bytes().replace(b'"control.done"', b'"control.dune"', 1))
    assert not verify(new, directory / "audit", key)["intact"]
    assert verify_independently(directory / "audit", key).returncode == 1


def test_the_daemon_shows_its_whole_log_to_an_operator(taken_over: TakenOver, tmp_path: Path) -> None:
    noted = SQLITE["log"]["verdict"]
    asked = (
        "audit",
        "verify",
        "--public-key",
        key_file(tmp_path),
        "--expect",
        f"{noted['records']}:{noted['head']}",
    )
    verdict = taken_over.operator.ask(*asked, codes=(0,))
    assert verdict["intact"] and verdict["signatures_checked"]
    assert verdict["records"] > noted["records"]


def test_the_auditor_reads_and_does_not_change(taken_over: TakenOver, new: Release, tmp_path: Path) -> None:
    auditor = operator(new, tmp_path, taken_over.daemon, "auditor.toml")
    assert as_before(auditor.ask("status")["identity"], SQLITE["auditor"]) == SQLITE["auditor"]
    assert as_before(auditor.ask("key", "list")["keys"], SQLITE["keys"]) == SQLITE["keys"]
    assert auditor.run("grant", "add", "web-2", "edge").returncode != 0


# --- agents ---


@dataclass(frozen=True, slots=True)
class Agent:
    """The new agent with the old directory, connected to the new daemon."""

    directory: Path
    socket: Path

    @property
    def config(self) -> Path:
        return self.directory / "agent.toml"


@pytest.fixture(scope="module")
def enrolled(
    taken_over: TakenOver, new: Release, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Agent]:
    directory = unpacked_agent(tmp_path_factory.mktemp("agent"), taken_over.daemon)
    with agent_running(new, directory) as sock:
        yield Agent(directory, sock)


def test_the_enrolled_agent_connects_and_signs_with_each_key(enrolled: Agent) -> None:
    assert use_granted(enrolled.socket, SQLITE) == GRANTED
    adopted = next(key for key in SQLITE["keys"] if key["name"] == "adopted")
    with pytest.raises(agent_socket.AgentError) as refused:
        agent_socket.use_and_check(enrolled.socket, agent_socket.Key.of(adopted))
    assert refused.value.code == agent_socket.REFUSED


def test_the_enrolled_agent_continues_from_the_log_it_has_seen(enrolled: Agent, new: Release) -> None:
    (before,) = SQLITE["agent_seen"]
    (seen,) = new.ask("agent", "witness", "list", "--config", enrolled.config)["logs"]
    assert (seen["origin"], seen["key"]) == (before["origin"], before["key"])
    assert seen["size"] > before["size"]
    assert seen["accepted"] == ""  # without a declared break of the log


def test_exports_through_the_agent_are_the_same_files(enrolled: Agent, new: Release, tmp_path: Path) -> None:
    for name in EXPORTED:
        new.ask("agent", "export", name, "--config", enrolled.config, "--out", tmp_path / "again")
    made = {path.name: path.read_bytes() for path in (tmp_path / "again").iterdir()}
    assert set(made) == {"www.key", "www.pem", "edge.key", "edge.pem", "legacy.key"}
    assert made == {name: (enrolled.directory / "keys" / name).read_bytes() for name in made}


def test_without_a_daemon_the_agent_serves_its_cache(new: Release, tmp_path: Path) -> None:
    with closing(socket.socket()) as bound:  # bound but not listening, so that connections are refused
        bound.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{bound.getsockname()[1]}"
        directory = unpack("agent", tmp_path, {EXPECTED["address"]: address})
        with agent_running(new, directory, connected=False) as sock:
            new.ask(
                "agent", "export", "www", "--config", directory / "agent.toml", "--out", tmp_path / "again"
            )
            key = next(key for key in SQLITE["keys"] if key["name"] == "www")
            with pytest.raises(agent_socket.AgentError) as unavailable:
                agent_socket.use_and_check(sock, agent_socket.Key.of(key))
            assert unavailable.value.code == agent_socket.UNAVAILABLE
    for name in ("www.key", "www.pem"):
        assert (tmp_path / "again" / name).read_bytes() == (directory / "keys" / name).read_bytes()


@pytest.fixture(scope="module")
def openssl_configuration(enrolled: Agent, new: Release, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file that `hsmd agent install openssl` writes for the agent."""
    root = tmp_path_factory.mktemp("root")
    new.ask("agent", "install", "openssl", "--config", enrolled.config, "--root", root)
    (configuration,) = root.rglob("openssl.cnf")
    return configuration


@pytest.mark.parametrize("key", ["www", "shop", "edge"])
def test_a_tls_server_loads_the_old_key_reference(
    enrolled: Agent, new: Release, openssl_configuration: Path, tmp_path: Path, key: str
) -> None:
    """A handshake with `openssl s_server`, with the reference and chain that the old agent exported."""
    chain, log = enrolled.directory / "keys" / f"{key}.pem", tmp_path / "s_server.log"
    authority = tmp_path / "ca.pem"
    authority.write_bytes(x509.load_pem_x509_certificates(chain.read_bytes())[-1].public_bytes(Encoding.PEM))
    serve = ["openssl", "s_server", "-accept", "127.0.0.1:0", "-naccept", "1", "-www", "-cert", str(chain)]
    serve += ["-key", str(chain.with_suffix(".key"))]
    with log.open("wb") as output:
        environment = {**new.environment, "OPENSSL_CONF": str(openssl_configuration)}
        server = subprocess.Popen(
            serve, stdin=subprocess.DEVNULL, stdout=output, stderr=output, env=environment
        )
    try:
        wait_until(
            lambda: b"\n" in log.read_bytes().partition(b"ACCEPT")[2] or server.poll() is not None,
            "openssl s_server accepts",
        )
        accepting = re.search(r"ACCEPT (\S+:\d+)\n", log.read_text())
        assert accepting, log.read_text()
        connect = ["openssl", "s_client", "-connect", accepting[1], "-CAfile", str(authority), "-brief"]
        connect += ["-verify_return_error", "-verify_hostname", f"{key}.takeover.test"]
        done = subprocess.run(
            connect, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=COMMAND_S, check=False
        )
    finally:
        server.kill()
        server.wait()
    assert done.returncode == 0 and "Verification: OK" in done.stderr, done.stderr + log.read_text()


# --- credentials ---


def login(daemon: Daemon, user: str, identity: Path, host_key: str, *options: str) -> str:
    """Log in with OpenSSH's client; return "accepted", "denied", or its complete output.

    The client then sends data that is no frame, so that the daemon closes the channel immediately.
    """
    host, port = daemon.address.rsplit(":", 1)
    known = identity.parent / f"known_hosts_{port}"
    known.write_text(f"[{host}]:{port} {host_key}\n")
    line = [
        "ssh",
        "-F",
        "none",
        "-o",
        "BatchMode=yes",
        "-o",
        "IdentitiesOnly=yes",
        "-o",
        "IdentityAgent=none",
    ]
    line += ["-o", f"UserKnownHostsFile={known}", "-o", "StrictHostKeyChecking=yes", "-o", "LogLevel=VERBOSE"]
    line += ["-i", str(identity), *options, "-p", port, "-s", f"{user}@{host}", "hsmd"]
    done = subprocess.run(
        line,
        input="no frame" * 8,
        capture_output=True,
        text=True,
        errors="replace",
        timeout=COMMAND_S,
        check=False,
    )
    return (
        "accepted"
        if "Authenticated to" in done.stderr
        else "denied"
        if "Permission denied" in done.stderr
        else done.stderr
    )


@pytest.fixture
def operators(taken_over: TakenOver, new: Release, tmp_path: Path) -> Operator:
    """The directory with the clients' keys."""
    return operator(new, tmp_path, taken_over.daemon)


def host_key(operators: Operator) -> str:
    found = re.search(r"ssh-ed25519 [A-Za-z0-9+/=]+", operators.profile.read_text())
    assert found
    return found[0]


def test_registered_keys_are_accepted_and_revoked_and_removed_ones_denied(
    taken_over: TakenOver, operators: Operator
) -> None:
    def answer(user: str, name: str) -> str:
        return login(taken_over.daemon, user, operators.directory / name, host_key(operators))

    assert answer("web-2", "registered") == "accepted"
    assert answer("second-operator", "second_operator") == "accepted"
    assert answer("web-2", "revoked") == "denied"
    assert answer("removed", "removed") == "denied"
    assert answer("web-1", "registered") == "denied"


def test_the_trusted_user_ca_is_still_trusted(taken_over: TakenOver, operators: Operator) -> None:
    """New certificates by the old CA: a valid one is accepted, revoked and distrusted ones are refused."""
    directory = operators.directory
    subprocess.run(
        ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(directory / "certified")],
        check=True,
        timeout=COMMAND_S,
    )

    def answer(ca: str, serial: str, key_id: str, principal: str = "web-certified") -> str:
        sign = [
            "ssh-keygen",
            "-q",
            "-s",
            str(directory / ca),
            "-I",
            key_id,
            "-z",
            serial,
            "-n",
            principal,
            "-V",
            "-5m:+10m",
        ]
        subprocess.run([*sign, str(directory / "certified.pub")], check=True, timeout=COMMAND_S)
        certificate = f"CertificateFile={directory / 'certified-cert.pub'}"
        identity = directory / "certified"
        return login(taken_over.daemon, principal, identity, host_key(operators), "-o", certificate)

    assert answer("user_ca", "18", "takeover") == "accepted"
    assert answer("user_ca", "17", "takeover") == "denied"
    assert answer("user_ca", "18", "revoked-key-id") == "denied"
    assert answer("user_ca", "18", "takeover", "web-1") == "denied"
    assert answer("distrusted_ca", "18", "takeover") == "denied"


# --- the backup ---


def test_the_backup_is_restored_and_the_daemon_starts_from_it(new: Release, tmp_path: Path) -> None:
    """A discontinuity is declared, because operator and agent have seen more of the log than the backup contains."""
    whole = unpack("daemon", tmp_path / "source", {})
    restored, key = tmp_path / "restored", key_file(tmp_path)
    restored.mkdir(mode=0o700)
    shutil.copytree(whole / "softhsm", restored / "softhsm")
    shutil.copy2(whole / "hsmd.toml", restored / "hsmd.toml")
    relocate(restored, {f"{whole}/": f"{restored}/", **ANY_PORT})
    document = new.ask("restore", VECTORS / "backup.tar", "--config", restored / "hsmd.toml")
    assert document["daemon"] == EXPECTED["name"]
    before = log_bytes(restored / "audit")
    assert log_bytes(whole / "audit").startswith(before)
    with serving(new, restored) as daemon:
        found = operator(new, tmp_path, daemon)
        # The log is shorter than the one seen. Until the daemon has rebuilt its tree files, it may report "internal fault".
        wait_until(
            lambda: found.run("status").returncode == PROBLEMS, "the operator's command refuses the log"
        )
        found.ask(
            "audit", "discontinuity", "--anyway", "--reason", "restored for the takeover test", codes=(0,)
        )
        found.wait_for_token()
        held = contents(found.ask)
        assert as_before(held, SQLITE) == {name: SQLITE[name] for name in held}
        # It has seen more than the backup; it accepts the break, because its enrolment pinned the operator's key.
        with agent_running(new, unpacked_agent(tmp_path, daemon)) as sock:
            assert use_granted(sock, SQLITE) == GRANTED
        daemon.stop()
    assert_both_verify(new, restored / "audit", key)
    assert log_bytes(restored / "audit").startswith(before)


# --- PostgreSQL ---


def test_the_postgresql_store_is_taken_over(new: Release, tmp_path: Path, cluster: Cluster) -> None:
    """The dump in a new database, with the directory of the daemon that used it."""
    url = cluster.load("takeover", VECTORS / "postgresql.sql")
    directory = unpack("daemon-postgresql", tmp_path, {**ANY_PORT, "postgresql-url": url})
    before, facts = log_bytes(directory / "audit"), POSTGRESQL["log"]
    assert assert_both_verify(new, directory / "audit", directory / "log.key") == facts["verdict"]
    with serving(new, directory) as daemon:
        found = operator(new, tmp_path, daemon)
        found.wait_for_token()
        held = contents(found.ask)
        assert as_before(held, POSTGRESQL) == {name: POSTGRESQL[name] for name in held}
        with agent_running(new, unpacked_agent(tmp_path, daemon)) as sock:
            assert use_granted(sock, POSTGRESQL) == {*GRANTED, "postgresql-key"}
        # Identity columns continue after the rows of the dump.
        found.ask("client", "add", "added", codes=(0,))
        found.ask("grant", "add", "added", "postgresql-key", codes=(0,))
        daemon.stop()
    verdict = assert_both_verify(new, directory / "audit", directory / "log.key")
    assert verdict["records"] > facts["verdict"]["records"]
    expect_continuation(facts, directory / "audit", before)


# --- the separate log ---


def test_the_separate_log_verifies(new: Release, tmp_path: Path) -> None:
    directory = unpack("audit", tmp_path, {})
    log, key, checkpoint = directory / "log", directory / "log.key", directory / "checkpoint"
    facts = json.loads((directory / "facts.json").read_text())
    assert assert_both_verify(new, log, key) == facts["verdict"]
    assert verify(new, log, key, "--checkpoint", checkpoint)["intact"]
    assert verify_independently(log, key, "--checkpoint", checkpoint).returncode == 0
    exported = new.ask("audit", "verify-export", directory / "export", "--public-key", key)
    lines = (directory / "export").read_text().splitlines()
    assert exported["intact"]
    assert (exported["first"], exported["last"]) == (3, 3 + len(lines) - 2)  # the first line is the proof
    (log / "audit.jsonl").write_bytes(b"")  # the checkpoint covers more than remains
    assert not verify(new, log, key, "--checkpoint", checkpoint)["intact"]
    assert verify_independently(log, key, "--checkpoint", checkpoint).returncode == 1


# --- the old wheel ---


def test_the_old_wheel_is_used(old: Release, new: Release) -> None:
    """The two releases import different files; otherwise the tests below would prove nothing."""

    def imported(release: Release) -> Path:
        done = subprocess.run(
            [*release.python, "-c", "import hsmd, hsmd.cli; print(hsmd.__file__, hsmd.cli.__file__)"],
            capture_output=True,
            text=True,
            timeout=COMMAND_S,
            check=True,
            cwd=release.directory,
            env=release.environment,
        )
        package, commands = map(Path, done.stdout.split())
        assert commands.is_relative_to(package.parent)
        return package

    assert imported(old) == old.path[0] / "hsmd" / "__init__.py"
    assert imported(new) != imported(old)


def test_the_old_worker_passes_over_ceilings_that_it_does_not_know(old: Release, new: Release) -> None:
    """The module has moved since; each release gets what the new one writes, and tells which of it are ceilings."""
    write = (
        "from cryptography.hazmat.primitives.asymmetric import ec, rsa\n"
        "from hsmd.daemon.worker.ceilings import encode, parse\n"
        "from hsmd.pkcs11.public_keys import PublicHalf\n"
        "from hsmd.purposes import Purpose as P, expand\n"
        "small = PublicHalf.of(ec.generate_private_key(ec.SECP256R1()).public_key())\n"
        "large = PublicHalf.of(rsa.generate_private_key(65537, 2048).public_key())\n"
        "serves, signs, unwraps = expand(['tls-server']), frozenset({P.STATEMENT}), frozenset({P.UNWRAP_KEY})\n"
        "some = {P.TLS13_SERVER: {'names': ['example.org']}}\n"
        "found = [encode(small, b'1', serves), encode(small, b'1', serves, some), encode(large, b'1', unwraps),\n"
        "         encode(small, b'1', signs)]\n"
        "assert all(map(parse, found))\n"
        "print(*(value.decode() for value in found), sep='\\n')"
    )
    read = (
        "import sys\n"
        "from hsmd.daemon.token.ceilings import parse\n"
        "print([parse(line.rstrip('\\n').encode()) is not None for line in sys.stdin])"
    )
    written = run_python(new, write)
    assert run_python(old, read, written) == "[True, False, False, False]\n"


def test_a_running_old_daemon_takes_limited_grants_for_none(
    old: Release, new: Release, tmp_path: Path
) -> None:
    """During an upgrade it reads, and writes, the store that the new release has migrated."""
    url = f"sqlite:///{tmp_path}/store.db"
    write = (
        "from datetime import UTC, datetime\n"
        "from hsmd.algorithms import KeyType\n"
        "from hsmd.daemon.store import CredentialRecord, KeyRecord, Limits, Store\n"
        "from hsmd.protocol.roles import Role\n"
        "from hsmd.purposes import AllowedNames, Purpose as P, expand, with_daemon_purposes\n"
        f"store, now = Store({url!r}), datetime.now(UTC)\n"
        "store.migrate()\n"
        "purposes = with_daemon_purposes(expand(['tls-server']))\n"
        "names = AllowedNames.of(['*.example.com']).to_json()\n"
        "with store.write() as tx:\n"
        "    tx.keys.add(KeyRecord('site', KeyType.P256, b'k' * 32, b'x', purposes, 'main', now))\n"
        "    for client in ('free', 'bound'):\n"
        "        credential = CredentialRecord('SHA256:' + client.ljust(43, 'x'), 'line')\n"
        "        tx.clients.add(client, frozenset({Role.FRONT_END}), now, credential)\n"
        "    tx.grants.add('free', 'site', [P.TLS13_SERVER])\n"
        "    tx.limited_grants.add('bound', 'site', [P.TLS13_SERVER], Limits(max_uses=3), now)\n"
        "    tx.limited_grants.add('bound', 'site', [P.X509_REQUEST], Limits(constraints=names), now)"
    )
    decide = (
        "from datetime import UTC, datetime\n"
        "from hsmd.daemon.access import Grant, Snapshot\n"
        "from hsmd.daemon.store import Store\n"
        "from hsmd.purposes import Purpose as P\n"
        f"store = Store({url!r})\n"
        "snapshot = Snapshot.build(store.load())\n"
        "for client in ('free', 'bound'):\n"
        "    identity = snapshot.identify_key(client, 'SHA256:' + client.ljust(43, 'x'))\n"
        "    for purpose in (P.TLS13_SERVER, P.X509_REQUEST):\n"
        "        print(isinstance(snapshot.decide(identity, b'k' * 32, purpose, datetime.now(UTC)), Grant))\n"
        "store.rename_client('bound', 'still-bound')\n"
        "store.rename_key('site', 'shop')"
    )
    count = (
        "from datetime import UTC, datetime\n"
        "from hsmd.daemon.store import Store, WantedUse\n"
        f"store, now = Store({url!r}), datetime.now(UTC)\n"
        "grants = store.load().limited_grants\n"
        "uses = [WantedUse(each.id, 'a', 0, each.client, each.key_digest, 1) for each in grants]\n"
        "with store.write(versioned=False) as tx:\n"
        "    uses = tx.limited_grants.count(uses, now)\n"
        "print([(each.client, each.key, use.number) for each, use in zip(grants, uses)])"
    )
    run_python(new, write)
    assert run_python(old, decide).split() == ["True", "False", "False", "False"]
    assert run_python(new, count) == "[('still-bound', 'shop', 1), ('still-bound', 'shop', 1)]\n"


def run_python(release: Release, program: str, given: str = "") -> str:
    return subprocess.run(
        [*release.python, "-c", program],
        input=given,
        capture_output=True,
        text=True,
        timeout=COMMAND_S,
        check=True,
        cwd=release.directory,
        env=release.environment,
    ).stdout


def test_the_old_agent_signs_with_each_key_of_the_new_daemon(
    taken_over: TakenOver, old: Release, tmp_path: Path
) -> None:
    directory = unpacked_agent(tmp_path, taken_over.daemon)
    with agent_running(old, directory) as sock:
        assert use_granted(sock, SQLITE) == GRANTED
        old.ask("agent", "export", "www", "--config", directory / "agent.toml", "--out", tmp_path / "again")
    for name in ("www.key", "www.pem"):
        assert (tmp_path / "again" / name).read_bytes() == (directory / "keys" / name).read_bytes()


def test_the_old_operator_reads_the_new_daemon(taken_over: TakenOver, old: Release, tmp_path: Path) -> None:
    earlier = operator(old, tmp_path, taken_over.daemon)
    held = contents(earlier.ask)  # the test that makes changes reverts them
    assert held == {name: SQLITE[name] for name in held}
    status = earlier.ask("status", codes=(0,))
    assert status["identity"] == SQLITE["identity"]
    assert {name: status["daemon"][name] for name in SQLITE["counts"]} == SQLITE["counts"]
    noted = SQLITE["log"]["verdict"]
    asked = (
        "audit",
        "verify",
        "--public-key",
        key_file(tmp_path),
        "--expect",
        f"{noted['records']}:{noted['head']}",
    )
    verdict = earlier.ask(*asked, codes=(0,))
    assert verdict["intact"] and verdict["records"] > noted["records"]


def test_the_old_operator_changes_the_new_daemon(taken_over: TakenOver, old: Release, tmp_path: Path) -> None:
    earlier, later = operator(old, tmp_path, taken_over.daemon), taken_over.operator
    question = ("grant", "explain", "never-enrolled", "documents", "sign-message")
    assert not later.ask(*question)["allowed"]
    earlier.ask("grant", "add", "never-enrolled", "documents", "--purpose", "sign-message", codes=(0,))
    assert later.ask(*question)["allowed"]
    earlier.ask("grant", "remove", "never-enrolled", "documents", codes=(0,))
    assert not later.ask(*question)["allowed"]
    earlier.ask("key", "generate", "by-the-old-operator", codes=(0,))
    request = earlier.release.run(
        "key", "csr", "by-the-old-operator", "--dns", "old.test", "--profile", earlier.profile
    )
    assert x509.load_pem_x509_csr(request.stdout.encode()).is_signature_valid
    earlier.ask("key", "destroy", "by-the-old-operator", "--confirm", "by-the-old-operator", codes=(0,))


# --- the wire ---


def test_golden_wire_vectors_are_unchanged() -> None:
    found = {
        name: hashlib.sha256((VECTORS.parent / name).read_bytes()).hexdigest() for name in EXPECTED["vectors"]
    }
    assert found == EXPECTED["vectors"]
