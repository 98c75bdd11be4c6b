"""Commands with a real daemon and agent, from an empty token to a checked front end."""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_public_key,
)
from cryptography.x509.oid import NameOID

from hsmd import cli
from hsmd.testing import Daemon
from tests.support.terminal import run_in_terminal

PROVIDER = Path(__file__).resolve().parents[3] / "hsmd" / "provider"


@pytest.fixture(scope="module")
def daemon() -> Iterator[Daemon]:
    with Daemon(["www:p-256"]) as running:
        yield running


def hsmd(daemon: Daemon | None, *arguments: str) -> tuple[int, Any, str]:
    """Exit code, JSON document and standard error of a command line, run in this process."""
    profile = [] if daemon is None else ["--profile", str(daemon.operator_profile)]
    out, errors = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(errors):
        code = cli.run([*arguments, *profile, "--json"])
    return code, json.loads(out.getvalue()) if out.getvalue() else None, errors.getvalue()


def operate(daemon: Daemon, *arguments: str) -> Any:
    """The document of an operator's command that must succeed."""
    code, document, errors = hsmd(daemon, *arguments)
    assert code == 0, errors
    return document


def test_a_key_is_generated_certified_granted_and_destroyed(daemon: Daemon, tmp_path: Path) -> None:
    made = operate(daemon, "key", "generate", "life", "--type", "p-384", "--purpose", "tls13-server")
    assert made["key_type"] == "p-384"
    request = x509.load_pem_x509_csr(
        operate(daemon, "key", "csr", "life", "--dns", "life.example")["pem"].encode()
    )
    assert request.is_signature_valid
    chain = tmp_path / "chain.pem"
    chain.write_bytes(_issue(request).public_bytes(Encoding.PEM))
    code, refusal, _ = hsmd(daemon, "cert", "import", "life", str(chain))
    assert (code, "is missing: append it" in refusal["error"]["text"]) == (1, True), refusal
    forced = operate(daemon, "cert", "import", "life", str(chain), "--force")
    assert forced["certificate_not_after"] is not None
    assert "is missing: append it" in forced["warnings"][0]
    assert operate(daemon, "cert", "export", "life")["pem"].strip() == chain.read_text().strip()
    operate(daemon, "grant", "add", "front-end", "life", "--purpose", "tls13-server")
    assert operate(daemon, "grant", "explain", "front-end", "life", "tls13-server")["allowed"]
    code, explanation, _ = hsmd(daemon, "grant", "explain", "front-end", "life", "tls12-server")
    assert (code, explanation["allowed"]) == (4, False)
    assert operate(daemon, "grant", "remove", "front-end", "life")["changed"]
    assert operate(daemon, "key", "destroy", "life", "--confirm", "life")["destroyed"] == "life"
    assert hsmd(daemon, "key", "show", "life")[0] == 1


def _issue(request: x509.CertificateSigningRequest) -> x509.Certificate:
    """A certificate for the request, issued by a temporary CA."""
    ca, now = ec.generate_private_key(ec.SECP256R1()), datetime.now(UTC)
    builder = x509.CertificateBuilder(
        issuer_name=x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Test CA")]),
        subject_name=request.subject,
        public_key=request.public_key(),
        serial_number=x509.random_serial_number(),
        not_valid_before=now - timedelta(hours=1),
        not_valid_after=now + timedelta(days=90),
        extensions=list(request.extensions),
    )
    return builder.sign(ca, hashes.SHA256())


def as_client(daemon: Daemon, directory: Path, name: str, *arguments: str) -> tuple[int, str, str]:
    """Exit code, output and standard error of a command line of another client, with its own profile."""
    profile = directory / name / "operator.toml"
    if not profile.exists():
        token = operate(daemon, "client", "enroll", name, "--role", "owner")["token"]
        profile.parent.mkdir()
        (profile.parent / "token").write_text(token)
        done = run("enroll", str(profile.parent / "token"), "--profile", str(profile))
        assert done[0] == 0, done[2]
    return run(*arguments, "--profile", str(profile))


def run(*arguments: str) -> tuple[int, str, str]:
    out, errors = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(errors):
        code = cli.run([*arguments])
    return code, out.getvalue(), errors.getvalue()


def test_an_owner_sees_its_keys_and_reads_about_them_after_their_end(daemon: Daemon, tmp_path: Path) -> None:
    profile = ["--profile", str(daemon.operator_profile)]
    assert "OWNER" not in run("key", "list", *profile)[1], "no key has an owner"
    assert json.loads(as_client(daemon, tmp_path, "payments", "key", "list", "--json")[1]) == {"keys": []}
    code, _, errors = run("key", "generate", "pay", "--owner", "front-end", *profile)
    assert (code, "hsmd client role add front-end owner" in errors) == (1, True), errors
    assert operate(daemon, "key", "generate", "pay", "--owner", "payments")["owner"] == "payments"
    table = run("key", "list", *profile)[1]
    assert "OWNER" in table and "payments" in table
    assert "payments" in run("key", "show", "pay", *profile)[1]
    shown = as_client(daemon, tmp_path, "payments", "key", "list")[1]
    assert "pay" in shown and "www" not in shown

    assert operate(daemon, "key", "reader", "add", "pay", "front-end")["changed"]
    readers = operate(daemon, "key", "reader", "list")["readers"]
    assert readers == [{"key": "pay", "client": "front-end"}]
    assert operate(daemon, "key", "owner", "list")["owners"] == readers, "the former words go on working"
    assert "│ owner " not in run("key", "--help")[1]
    assert operate(daemon, "key", "owner", "remove", "pay", "front-end")["changed"]

    digest = operate(daemon, "key", "show", "pay")["digest"]
    operate(daemon, "key", "rename", "pay", "pay-old")
    operate(daemon, "key", "destroy", "pay-old", "--confirm", "pay-old")
    (past,) = json.loads(as_client(daemon, tmp_path, "payments", "key", "list", "--destroyed", "--json")[1])[
        "keys"
    ]
    assert ([each["name"] for each in past["names"]], past["digest"]) == (["pay", "pay-old"], digest)
    assert "pay-old" in run("key", "list", "--destroyed", *profile)[1]
    code, text, errors = as_client(daemon, tmp_path, "payments", "audit", "show", "--key", digest, "--json")
    assert (code, errors) == (0, "")
    operations = [record["fields"]["op"] for record in json.loads(text)["records"]]
    assert operations == ["key.generate", "key.owner.add", "key.owner.remove", "key.rename", "key.destroy"]
    about = as_client(daemon, tmp_path, "payments", "audit", "about")[1]
    assert "key.destroy" in about and "www" not in about


@pytest.mark.parametrize("passphrase", [b"", b"a passphrase"], ids=["plain", "encrypted"])
def test_an_imported_key_is_in_no_arguments_and_no_environment(
    daemon: Daemon, tmp_path: Path, passphrase: bytes
) -> None:
    name = "encrypted" if passphrase else "imported"
    key = ec.generate_private_key(ec.SECP256R1())
    encryption = BestAvailableEncryption(passphrase) if passphrase else NoEncryption()
    pem = tmp_path / "key.pem"
    pem.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption))
    (tmp_path / "passphrase").write_bytes(passphrase)
    options = ["--passphrase-file", str(tmp_path / "passphrase")] if passphrase else []
    with _Watcher() as watcher:
        info = daemon.command(
            "key", "import", name, str(pem), "--config", str(daemon.directory / "hsmd.toml"), *options
        )
    assert load_pem_public_key(_public_pem(info)).public_numbers() == key.public_key().public_numbers()  # type: ignore[union-attr]
    assert operate(daemon, "cert", "self-signed", name, "--dns", "imported.example")["pem"], (
        "the imported key signs"
    )
    secrets = [pem.read_bytes().splitlines()[2], (daemon.directory / "softhsm" / "pin").read_bytes().strip()]
    seen = watcher.seen
    assert any(b"worker.key_import" in line for line in seen), "the worker was watched"
    for secret in [*secrets, *([passphrase] if passphrase else [])]:
        assert not any(secret in line for line in seen)


def test_a_weak_key_is_refused_and_imported_with_a_record(daemon: Daemon, tmp_path: Path) -> None:
    pem = tmp_path / "weak.pem"
    key = rsa.generate_private_key(3, 2048)
    pem.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    arguments = ("key", "import", "weak", str(pem), "--config", str(daemon.directory / "hsmd.toml"))
    code, _, errors = hsmd(daemon, *arguments)
    assert code == 1
    assert "public exponent is small (3)" in errors
    assert "--accept-weak" in errors
    accepted = "accepted although weak: its public exponent is small (3)"
    assert operate(daemon, *arguments, "--accept-weak")["warnings"] == [accepted]
    assert operate(daemon, "key", "show", "weak")["warnings"] == [accepted]
    records = operate(daemon, "audit", "show", "--key", "weak")["records"]
    assert records[0]["fields"]["target_weaknesses"] == accepted


def _public_pem(info: dict[str, Any]) -> bytes:
    return f"-----BEGIN PUBLIC KEY-----\n{info['public_key']}\n-----END PUBLIC KEY-----\n".encode()


class _Watcher:
    """Collects argument lists and environments of all processes while the block runs."""

    def __init__(self) -> None:
        self.seen: set[bytes] = set()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch)

    def __enter__(self) -> _Watcher:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._stop.wait(0.005):
            for entry in Path("/proc").iterdir():
                if entry.name.isdigit() and int(entry.name) != os.getpid():
                    self._read(entry)

    def _read(self, process: Path) -> None:
        try:
            if (arguments := (process / "cmdline").read_bytes()) and b"hsmd" in arguments:
                self.seen |= {arguments, (process / "environ").read_bytes()}
        except OSError:
            pass  # the process has ended


def test_import_refuses_an_existing_name_before_it_uses_the_token(daemon: Daemon, tmp_path: Path) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    (tmp_path / "key.pem").write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    config = str(daemon.directory / "hsmd.toml")
    code, _, errors = hsmd(daemon, "key", "import", "www", str(tmp_path / "key.pem"), "--config", config)
    assert (code, "choose another name" in errors) == (1, True)
    assert hsmd(daemon, "key", "import", "fresh", str(tmp_path / "key.pem"), "--config", config)[0] == 0


def test_status_and_audit_agree(daemon: Daemon) -> None:
    status = operate(daemon, "status")
    assert status["identity"]["role"] == "operator"
    assert {worker["state"] for worker in status["daemon"]["tokens"][0]["workers"]} <= {"ready", "spare"}
    verdict = operate(daemon, "audit", "verify")
    assert verdict["intact"]
    assert verdict["records"] >= status["daemon"]["audit_records"]
    rows = operate(daemon, "audit", "show", "--key", "www")["records"]
    assert next(row["fields"]["op"] for row in rows if row["event"] == "control.begun") == "key.generate"
    attempts = [row for row in rows if row["event"] == "attempt"]
    [row] = [row for row in attempts if row["purpose"] == "x509-self-signed"]
    assert row["outcome"]["result"] == "performed"


def test_what_the_token_does_with_wrapped_keys_is_shown(daemon: Daemon) -> None:
    [token] = operate(daemon, "token", "list")["tokens"]
    assert token["wrapping"] == ["rsa-oaep-sha1", "aes-kwp-0x210a", "aes-key-wrap"]
    assert {"ECDSA", "RSA_PKCS_OAEP"} <= set(token["abilities"])
    [of_status] = operate(daemon, "status")["daemon"]["tokens"]
    assert (of_status["wrapping"], of_status["abilities"]) == (token["wrapping"], token["abilities"])


def test_the_log_on_disk_verifies_and_a_flipped_bit_is_found(daemon: Daemon, tmp_path: Path) -> None:
    log = daemon.directory / "audit" / "audit.jsonl"
    copy = tmp_path / "log"
    shutil.copy(log, copy)
    code, verdict, _ = hsmd(None, "audit", "verify", "--log", str(copy))
    assert (code, verdict["intact"]) == (0, True)
    content = bytearray(copy.read_bytes())
    third = content.splitlines(keepends=True)[:3]
    content[len(b"".join(third)) - 10] ^= 1
    copy.write_bytes(content)
    code, verdict, _ = hsmd(None, "audit", "verify", "--log", str(copy))
    assert (code, verdict["first_bad"]) == (4, 2)


def test_checkpoints_and_proofs_verify_on_the_command_line(daemon: Daemon, tmp_path: Path) -> None:
    ends = time.monotonic() + 20.0
    while operate(daemon, "status")["daemon"]["audit_covered"] == 0:
        assert time.monotonic() < ends, "no checkpoint"
    public_key, seen = tmp_path / "audit-key", tmp_path / "seen"
    public_key.write_text(operate(daemon, "audit", "key")["verifier_key"] + "\n")
    checkpoint = operate(daemon, "audit", "checkpoint", "--out", str(seen))
    assert seen.read_text() == checkpoint["note"]
    checks = ("--public-key", str(public_key), "--checkpoint", str(seen))
    verdict = operate(daemon, "audit", "verify", *checks)
    assert (verdict["intact"], verdict["signatures_checked"]) == (True, True)
    assert verdict["covered"] >= checkpoint["size"] > 0
    proven = operate(daemon, "audit", "prove", "1", "--public-key", str(public_key))
    assert json.loads(proven["record"])["index"] == 1

    copy = tmp_path / "log"
    lines = (daemon.directory / "audit" / "audit.jsonl").read_bytes().splitlines(keepends=True)
    copy.write_bytes(b"".join(lines[: checkpoint["size"] - 1]))
    code, verdict, _ = hsmd(None, "audit", "verify", "--log", str(copy), *checks)
    assert (code, verdict["intact"]) == (4, False)
    assert f"it had {checkpoint['size']}" in verdict["reason"]


def test_a_front_end_cannot_manage_the_daemon(daemon: Daemon) -> None:
    ready = daemon.directory
    options = [
        "--daemon",
        daemon.address,
        "--user",
        "front-end",
        "--identity",
        str(ready / "front-end"),
        "--host-key",
        daemon.host_key,
    ]
    code, status, _ = hsmd(None, "status", *options)
    assert (code, status["identity"]["role"], status["daemon"]) == (0, "front-end", None)
    for arguments in (["key", "generate", "x"], ["client", "list"], ["grant", "list"], ["audit", "seal"]):
        code, document, errors = hsmd(None, *arguments, *options)
        assert (code, document["error"]["text"]) == (1, "refused")
        assert "hsmd status" in errors
    _, shown, _ = hsmd(None, "audit", "show", *options)
    assert shown["records"] and "front-end" in str(shown["records"][0])


def test_a_command_does_not_connect_to_a_daemon_that_is_not_pinned(daemon: Daemon) -> None:
    other = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIIy2wz6cipyHlUlxaUp5RUJ/yHqBk2/jr7YXkA9ghGC9"
    line = [sys.executable, "-m", "hsmd.cli", "status", "--daemon", daemon.address, "--user", "operator"]
    line += ["--identity", str(daemon.directory / "operator"), "--host-key", other]
    done = subprocess.run(line, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert "does not have the pinned host key" in done.stderr


def test_the_status_fits_into_a_small_terminal(daemon: Daemon, tmp_path: Path) -> None:
    """The line that was typed and the next prompt are on the screen, too."""
    for number in range(5):
        operate(daemon, "key", "generate", f"use-{number}")
        operate(daemon, "cert", "self-signed", f"use-{number}", "--dns", "use.test")
    line = [sys.executable, "-m", "hsmd.cli", "status", "--profile", str(daemon.operator_profile)]
    environment = {**os.environ, "TERM": "xterm"}
    code, shown = run_in_terminal(line, [], environment=environment, cwd=tmp_path, size=(80, 24))
    lines = re.sub("\x1b\\[[0-9;]*m", "", shown).splitlines()
    assert (code, lines[0]) == (0, "Handshakes work.")
    assert lines[-1].endswith(" more: hsmd top, hsmd status --json")
    assert len(lines) <= 22 and max(map(len, lines)) <= 80, shown


@pytest.mark.parametrize("command", [["status"], ["--help"]], ids=str)
def test_a_reader_that_has_gone_is_no_error_worth_a_line(daemon: Daemon, command: list[str]) -> None:
    """As with `hsmd status | head`."""
    reader, writer = os.pipe()
    os.close(reader)
    line = [sys.executable, "-m", "hsmd.cli", *command]
    if "--help" not in command:
        line += ["--profile", str(daemon.operator_profile)]
    try:
        done = subprocess.run(line, stdout=writer, stderr=subprocess.PIPE, text=True, timeout=60, check=False)
    finally:
        os.close(writer)
    assert (done.returncode, done.stderr) == (1, "")


def test_an_unreachable_daemon_is_exit_code_3(daemon: Daemon) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{closed.getsockname()[1]}"
        code, document, _ = hsmd(daemon, "status", "--daemon", address)
    assert (code, document["error"]["exit_code"]) == (3, 3)


# --- the front end ---


@pytest.fixture(scope="module")
def module(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The OpenSSL provider, built without options."""
    made = tmp_path_factory.mktemp("provider") / "hsmd.so"
    sources = [str(path) for path in sorted(PROVIDER.glob("*.c"))]
    subprocess.run(
        ["cc", "-std=c11", "-O1", "-fPIC", "-shared", "-fvisibility=hidden", *sources, "-o", str(made)],
        check=True,
    )
    return made


def test_an_exported_key_passes_the_check(daemon: Daemon, module: Path, tmp_path: Path) -> None:
    from hsmd.provider import openssl_configuration

    agent = ["--config", str(daemon.directory / "agent.toml")]
    code, exported, _ = hsmd(None, "agent", "export", "www", "--out", str(tmp_path), *agent)
    assert code == 0
    assert Path(exported["reference"]).read_text() == daemon.keys["www"].reference.read_text()
    configuration = tmp_path / "openssl.cnf"
    configuration.write_text(openssl_configuration(str(daemon.agent_socket), module=module))
    line = ["agent", "check", "www", "--file", exported["reference"], "--openssl", str(configuration), *agent]
    code, report, _ = hsmd(None, *line)
    assert [finding["text"] for finding in report["findings"] if not finding["ok"]] == []
    assert (code, report["ok"]) == (0, True)
    assert {finding["subject"] for finding in report["findings"]} >= {
        "socket",
        "agent",
        "daemon",
        "grant",
        "key reference",
        "certificate",
        "OpenSSL",
    }


def test_check_names_each_problem_and_its_fix(daemon: Daemon, module: Path, tmp_path: Path) -> None:
    from hsmd.provider import openssl_configuration

    agent = ["--config", str(daemon.directory / "agent.toml")]
    text = openssl_configuration(str(daemon.agent_socket), module=module, include=None)
    wrong_order = text.replace(
        "default = hsmd_default\nhsmd = hsmd_self", "hsmd = hsmd_self\ndefault = hsmd_default"
    )
    assert wrong_order != text
    cases = {
        "missing-module": (text.replace(str(module), "/nonexistent/hsmd.so"), "does not load the provider"),
        "wrong-order": (wrong_order, "ephemeral P-256"),
        "no-default": (text.replace("[hsmd_default]\nactivate = 1", "[hsmd_default]"), "default"),
    }
    for name, (content, complaint) in cases.items():
        configuration = tmp_path / f"{name}.cnf"
        configuration.write_text(content)
        code, report, _ = hsmd(
            None,
            "agent",
            "check",
            "www",
            "--openssl",
            str(configuration),
            "--file",
            str(daemon.keys["www"].reference),
            *agent,
        )
        problems = [finding for finding in report["findings"] if not finding["ok"]]
        assert code == 4, name
        assert any(
            finding["subject"] == "OpenSSL" and complaint in finding["text"] for finding in problems
        ), (name, problems)
        assert all(finding["mend"] for finding in problems)


def test_check_reports_a_missing_grant_and_files_of_another_key(daemon: Daemon, tmp_path: Path) -> None:
    operate(daemon, "key", "generate", "ungranted")
    operate(daemon, "key", "generate", "second")
    operate(daemon, "grant", "add", "front-end", "second")
    agent = ["--config", str(daemon.directory / "agent.toml")]
    code, report, _ = hsmd(None, "agent", "check", "ungranted", *agent)
    assert code == 4
    assert "hsmd grant add front-end ungranted" in " ".join(finding["mend"] for finding in report["findings"])
    foreign = str(daemon.keys["www"].reference)
    code, report, _ = hsmd(None, "agent", "check", "second", "--file", foreign, *agent)
    texts = [finding["text"] for finding in report["findings"] if not finding["ok"]]
    assert any("another key" in text for text in texts)
    assert any("not for the key second" in text for text in texts)


def test_an_agent_is_set_up_with_the_printed_commands(daemon: Daemon, tmp_path: Path) -> None:
    """Set up a front end as its administrator and an operator do, with the lines that the commands print."""
    config = tmp_path / "front" / "agent.toml"
    init = [
        "agent",
        "init",
        "--daemon",
        daemon.address,
        "--client",
        "web9",
        "--host-key",
        daemon.host_key,
        "--config",
        str(config),
    ]
    code, made, _ = hsmd(None, *init)
    assert code == 0
    assert config.stat().st_mode & 0o077 == 0
    assert (config.parent / "agent_ed25519").stat().st_mode & 0o077 == 0
    assert hsmd(None, *init)[0] == 1, "nothing is overwritten"
    operate(daemon, "client", "add", "web9", "--key", made["public_key"])
    operate(daemon, "grant", "add", "web9", "www")
    with subprocess.Popen(
        [sys.executable, "-m", "hsmd.cli", "agent", "run", "--config", str(config)], stderr=subprocess.DEVNULL
    ) as agent:
        try:
            ends = time.monotonic() + 20
            while (
                code := hsmd(None, "agent", "export", "www", "--config", str(config))[0]
            ) != 0 and time.monotonic() < ends:
                assert agent.poll() is None
            assert code == 0
            exported = config.parent / "keys" / "www.pem"
            leaf = x509.load_pem_x509_certificate(exported.read_bytes())
            www = x509.load_pem_x509_certificate(Path(str(daemon.keys["www"].chain)).read_bytes())
            assert leaf.public_key().public_bytes(
                Encoding.DER, PublicFormat.SubjectPublicKeyInfo
            ) == www.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        finally:
            agent.terminate()


def test_a_stopped_agent_is_reported(tmp_path: Path) -> None:
    code, document, _ = hsmd(
        None, "agent", "export", "www", "--socket", str(tmp_path / "none.sock"), "--out", str(tmp_path)
    )
    assert code == 3
    assert "is the agent running" in document["error"]["text"]
    code, report, _ = hsmd(None, "agent", "check", "www", "--socket", str(tmp_path / "none.sock"))
    assert code == 4
    assert not report["findings"][0]["ok"]
