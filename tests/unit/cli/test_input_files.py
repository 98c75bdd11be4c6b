"""Commands that read a file that the user names: each refuses what is not one, says so, and never waits for a pipe."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from hsmd.cli.base import ssh_keys
from hsmd.cli.base.errors import CommandError
from tests.support.cli import Run
from tests.support.fake_control import FakeControl

KEY = ed25519.Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
LINE = KEY.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()
OTHER = ed25519.Ed25519PrivateKey.from_private_bytes(bytes(32)).public_key()
OTHER_LINE = OTHER.public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()

COMMANDS: list[tuple[str, ...]] = [
    ("client", "add", "web1", "--key", "FILE"),
    ("client", "trust-user-ca", "FILE", "--client", "web1"),
    ("client", "distrust-user-ca", "FILE"),
    ("cert", "import", "www", "FILE"),
    ("key", "adopt", "www", "--id", "00", "--certificate", "FILE"),
    ("agent", "init", "--enroll", "FILE"),
    ("agent", "init", "--daemon", "192.0.2.1", "--client", "a", "--host-key", LINE, "--operator-key", "FILE"),
    ("agent", "run", "--config", "FILE"),
    ("enroll", "FILE", "--profile", "new.toml"),
    ("serve", "--config", "FILE"),
    ("restore", "FILE", "--config", "hsmd.toml"),
    ("statement", "verify", "FILE", "--key", "FILE"),
    ("audit", "verify-export", "FILE", "--public-key", "FILE"),
    ("init", "--softhsm", "--operator-key", "FILE"),
    ("status", "--profile", "FILE"),
]


@pytest.mark.timeout(20)
@pytest.mark.parametrize("command", COMMANDS, ids=lambda words: " ".join(words[:3]))
def test_a_pipe_or_a_directory_is_refused(
    command: tuple[str, ...], run: Run, home: Path, daemon: FakeControl
) -> None:
    for make, what in ((os.mkfifo, "a named pipe"), (os.mkdir, "a directory")):
        path = home / make.__name__
        make(path)
        ran = run(*(str(path) if word == "FILE" else word for word in command))
        assert ran.code in (1, 2), ran
        assert ran.out == ""
        assert str(path) in ran.err, ran.err
        assert what in ran.err.lower(), ran.err
        assert ran.err.count("\n") == 1
        assert "internal error" not in ran.err


@pytest.mark.parametrize(
    "command", [("agent", "run", "--config"), ("serve", "--config"), ("status", "--profile")], ids=str
)
def test_a_byte_order_mark_in_a_configuration_is_named(
    command: tuple[str, ...], run: Run, home: Path, daemon: FakeControl
) -> None:
    for content, encoding in ((b"\xef\xbb\xbf[agent]\n", "UTF-8"), ("[agent]\n".encode("utf-16"), "UTF-16")):
        (home / "file").write_bytes(content)
        ran = run(*command, str(home / "file"))
        assert ran.code == 2
        assert f"byte order mark ({encoding})" in ran.err


def private() -> str:
    return KEY.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption()).decode()


def pem_public() -> str:
    return KEY.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()


def rsa_pem() -> str:
    public = rsa.generate_private_key(65537, 1024).public_key()
    return public.public_bytes(Encoding.PEM, PublicFormat.PKCS1).decode()


REFUSED: list[tuple[Callable[[], str | bytes], str]] = [
    (lambda: f"{LINE} a\n{OTHER_LINE} b\n", "has 2 lines"),
    (lambda: f'no-pty,command="echo hi" {LINE}\n', "has options before the key"),
    (lambda: f"restrict {LINE}\n", "has options before the key"),
    (lambda: f"hsm.example.net,192.0.2.1 {LINE}\n", "has a host name before the key"),
    (lambda: b"\xef\xbb\xbf" + LINE.encode(), "byte order mark (UTF-8)"),
    (lambda: LINE.encode("utf-16"), "byte order mark (UTF-16)"),
    (private, "is a private key; nothing was sent"),
    (pem_public, "ssh-keygen -i -m PKCS8"),
    (rsa_pem, "ssh-keygen -i -m PEM"),
    (lambda: "---- BEGIN SSH2 PUBLIC KEY ----\nAAAA\n---- END SSH2 PUBLIC KEY ----\n", "RFC 4716"),
    (lambda: f"ssh-ed25519-cert-v01@openssh.com {LINE.split()[1]}\n", "is an OpenSSH certificate"),
    (lambda: "ssh-ed25519\n", "has no key behind ssh-ed25519"),
    (lambda: LINE[:-9] + "\n", "cut off or damaged"),
    (lambda: "# only a comment\n\n", "is empty"),
    (lambda: "", "is empty"),
    (lambda: "hello world\n", "is not an OpenSSH public key"),
    (lambda: "x" * 100_000, "more than 65536 bytes"),
    (lambda: b"\xff\xfa\x00", "NUL byte"),
]


@pytest.mark.parametrize(("make", "reason"), REFUSED)
def test_a_file_without_exactly_one_public_key_is_refused(
    make: Callable[[], str | bytes], reason: str, run: Run, home: Path, daemon: FakeControl
) -> None:
    content = make()
    (home / "key.pub").write_bytes(content if isinstance(content, bytes) else content.encode())
    ran = run("client", "add", "web1", "--key", str(home / "key.pub"))
    assert ran.code == 2
    assert reason in ran.err
    assert ran.err.startswith(f"hsmd: {home / 'key.pub'} ")
    assert daemon.asked == []


@pytest.mark.parametrize(
    "text", [LINE, f"{LINE} a comment, with words\r\n", f"# my key\r\n\r\n  {LINE}\tme@host\r\n\r\n"]
)
def test_comments_and_line_ends_do_not_matter(text: str, tmp_path: Path) -> None:
    (tmp_path / "key.pub").write_text(text, newline="")
    assert ssh_keys.read(tmp_path / "key.pub").line == LINE
    assert ssh_keys.line_or_file(text).line == LINE if " " in text.strip() else True


def test_a_line_on_the_command_line_is_not_taken_for_a_file(tmp_path: Path) -> None:
    for text, reason in (
        (f"restrict {LINE}", "options before the key"),
        (f"{LINE}\n{OTHER_LINE}", "2 lines"),
        (private(), "private key"),
    ):
        with pytest.raises(CommandError, match=reason):
            ssh_keys.line_or_file(text)


def test_a_token_file_with_more_than_the_token_is_refused(run: Run, home: Path) -> None:
    (home / "token").write_text("hsmd-enroll:v1:abc\nNext: run something\n")
    ran = run("agent", "init", "--enroll", str(home / "token"))
    assert ran.code == 2
    assert "has more than one line" in ran.err


@pytest.mark.parametrize(
    ("begin", "command"),
    [("30820a000201033082", "openssl pkcs12 -in"), ("30820a003082", "openssl x509 -inform DER")],
)
def test_a_chain_in_another_format_is_called_by_its_name(
    begin: str, command: str, run: Run, home: Path, daemon: FakeControl
) -> None:
    (home / "chain.p12").write_bytes(bytes.fromhex(begin) + b"\xff" * 40)
    ran = run("cert", "import", "www", str(home / "chain.p12"))
    assert ran.code == 2
    assert command in ran.err


def test_no_file_is_advised_that_does_not_exist(run: Run, home: Path, daemon: FakeControl) -> None:
    (home / "tls.pem").write_text("-----BEGIN PRIVATE KEY-----\n")
    assert "tls.pem.pub" not in run("client", "add", "web1", "--key", str(home / "tls.pem")).err
    (home / "tls.pem.pub").write_text("")
    assert "tls.pem.pub" in run("client", "add", "web1", "--key", str(home / "tls.pem")).err
