"""`hsmd vault` against a vault in memory: every command, what it prints, its exit codes, and errors that say what to do next."""

from __future__ import annotations

import getpass
import json
import os
import re
import stat
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)

from hsmd.cli.base import connection
from hsmd.envelopes.vault.management_keys import WrappingSuite
from hsmd.errors import Refused, Unavailable
from hsmd.holder import file_encryption, management_files
from hsmd.protocol import messages
from hsmd.protocol.messages import VaultCheck, VaultChecked, VaultGet
from hsmd.system import process
from tests.support.cli import Ran, Run
from tests.support.fake_vault import CLIENT, FakeVault
from tests.support.holder import CHEAP, management_key

WORD, ONE, TWO = b"correct horse", b"battery staple", b"another passphrase"
Fd = Callable[[bytes], str]


@pytest.fixture
def fd() -> Iterator[Fd]:
    """File descriptors with a passphrase to read."""
    opened = []

    def made(content: bytes = WORD) -> str:
        reading, writing = os.pipe()
        os.write(writing, content + b"\n")
        os.close(writing)
        opened.append(reading)
        return str(reading)

    yield made
    for each in opened:
        os.close(each)


@pytest.fixture
def vault(home: Path, monkeypatch: pytest.MonkeyPatch) -> FakeVault:
    """The vault that every command reaches, and the profile of anna; her management key is registered, and in its default file."""
    directory = home / ".config" / "hsmd"
    directory.mkdir(parents=True)
    (directory / "operator.toml").write_text(
        'daemon = "192.0.2.1:7440"\nuser = "anna"\nidentity = "id"\nhost_keys = ["ssh-ed25519 AAAA"]\n'
    )
    monkeypatch.setattr(process, "harden", lambda: None)
    monkeypatch.setattr(file_encryption, "COST", CHEAP)
    made = FakeVault(now=datetime.now(UTC))
    made.register(management_key())
    management_files.write_new(
        directory / "management-key", management_files.encrypted(management_key(), WORD, CHEAP)
    )
    monkeypatch.setattr(connection, "connect", lambda profile, witness=None: made)
    return made


@pytest.fixture
def ask(vault: FakeVault, run: Run, fd: Fd) -> Run:
    """Runs `hsmd vault ...` with the passphrase of the management key."""

    def asking(*arguments: str, word: bytes = WORD, stdin: str = "") -> Ran:
        return run("vault", *arguments, "--passphrase-fd", fd(word), stdin=stdin)

    return asking


@pytest.fixture
def pem(home: Path) -> Path:
    """A private key in a file."""
    path = home / "www.pem"
    key = ec.generate_private_key(ec.SECP256R1())
    path.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    return path


def public_of(pem: Path) -> bytes:
    key = load_pem_private_key(pem.read_bytes(), None)
    return key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def document(ran: Ran) -> Any:
    assert ran.code == 0, ran.err
    return json.loads(ran.out)


# --- management keys ---


def test_keygen_writes_the_key_and_a_second_copy(vault: FakeVault, run: Run, home: Path, fd: Fd) -> None:
    paths = home / "key", home / "stick" / "copy"
    paths[1].parent.mkdir()
    ran = run(
        "vault", "keygen", str(paths[0]), "--owner", "anna", "--backup", str(paths[1]),
        "--passphrase-fd", fd(ONE), "--backup-passphrase-fd", fd(TWO), "--json",
    )  # fmt: skip
    made = document(ran)
    assert (made["owner"], made["number"], made["suite"], made["files"]) == (
        "anna",
        1,
        "x25519",
        [str(each) for each in paths],
    )
    for path, word in zip(paths, (ONE, TWO), strict=True):
        file, statement = management_files.read(path)
        assert statement.fingerprint == made["fingerprint"]
        management_files.open_key(file, word)
        assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_keygen_without_a_copy_says_what_that_means(vault: FakeVault, run: Run, home: Path, fd: Fd) -> None:
    ran = run(
        "vault",
        "keygen",
        str(home / "key"),
        "--owner",
        "anna",
        "--suite",
        "p256",
        "--passphrase-fd",
        fd(WORD),
    )
    assert ran.code == 0
    assert "There is no second copy: without this key, what it protects is lost (--backup)." in ran.err
    assert f"Copy {home / 'key'} to another disk" in ran.err
    assert "Next: hsmd vault register" in ran.err
    again = run("vault", "keygen", str(home / "key"))
    assert again.code == 1 and "holds a management key and is not overwritten" in again.err
    assert "move it away" not in again.err and f"--replaces {home / 'key'}" in again.err


def test_keygen_never_overwrites_and_leaves_nothing_if_the_copy_fails(
    vault: FakeVault, run: Run, home: Path, fd: Fd
) -> None:
    taken = home / "taken"
    taken.write_text("x")
    ran = run("vault", "keygen", str(home / "key"), "--owner", "anna", "--backup", str(taken))
    assert ran.code != 0 and "exists and is not overwritten" in ran.err
    ran = run(
        "vault", "keygen", str(home / "key"), "--owner", "anna", "--backup", str(home / "copy"),
        "--passphrase-fd", fd(ONE), "--backup-passphrase-fd", fd(b""),
    )  # fmt: skip
    assert ran.code == 2 and "the passphrase is empty" in ran.err
    assert not (home / "key").exists() and not (home / "copy").exists()
    assert taken.read_text() == "x"


def test_keygen_refuses_a_short_passphrase(vault: FakeVault, run: Run, home: Path, fd: Fd) -> None:
    """Who has copied the file can try passphrases as fast as their machines allow."""
    ran = run("vault", "keygen", "key", "--passphrase-fd", fd(b"1234567"))
    assert ran.code == 2
    assert (
        "--passphrase-fd: the passphrase has 7 characters; at least 8 are needed - choose a longer one"
        in ran.err
    )
    ran = run(
        "vault", "keygen", "key", "--backup", "copy", "--passphrase-fd", fd(WORD),
        "--backup-passphrase-fd", fd(b"1234567"),
    )  # fmt: skip
    assert ran.code == 2 and "--backup-passphrase-fd: the passphrase has 7" in ran.err
    assert not (home / "key").exists() and not (home / "copy").exists()


def test_a_typed_short_passphrase_is_refused_before_it_is_typed_again(
    vault: FakeVault, run: Run, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    typed = iter(["short"])
    monkeypatch.setattr(getpass, "getpass", lambda _: next(typed))
    ran = run("vault", "keygen", "key")
    assert ran.code == 2 and "that you typed has 5 characters; at least 8 are needed" in ran.err
    assert "--passphrase-fd" not in ran.err
    assert not (home / "key").exists()


def test_a_management_key_with_a_short_passphrase_is_still_used(
    vault: FakeVault, ask: Run, pem: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(file_encryption, "MIN_PASSPHRASE", 1)
        management_files.write_new(home / "old", management_files.encrypted(management_key(), b"w", CHEAP))
    assert ask("put", "www", str(pem), "--management-key", "old", word=b"w").code == 0


def test_keygen_makes_no_directory_for_a_copy(vault: FakeVault, run: Run, home: Path) -> None:
    """Where another disk is to be mounted, the directory would be on this one."""
    ran = run("vault", "keygen", "key", "--backup", str(home / "stick" / "copy"))
    assert ran.code == 1 and f"there is no directory {home / 'stick'}" in ran.err
    assert not (home / "stick").exists()


def test_keygen_is_for_the_client_of_the_profile(vault: FakeVault, run: Run, home: Path, fd: Fd) -> None:
    made = run("vault", "keygen", str(home / "key"), "--passphrase-fd", fd(WORD), "--json")
    assert document(made)["owner"] == "anna"
    (home / ".config" / "hsmd" / "operator.toml").unlink()
    ran = run("vault", "keygen", str(home / "key-2"), "--passphrase-fd", fd(WORD))
    assert ran.code == 2 and "there is no profile that names you; give your client name" in ran.err


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--suite", "rsa1024"], "is none of rsa, p256, x25519, hybrid, symmetric"),
        (["--backup-token", "t.toml"], "--backup-token needs --backup"),
        (["--backup", "key"], "--backup names the same file"),
        (["--wrapping-key", "missing.pem"], "missing.pem cannot be read"),
        (["--passphrase-fd", "99"], "file descriptor 99 cannot be read"),
    ],
)
def test_wrong_options_of_keygen_are_named(
    vault: FakeVault, run: Run, options: list[str], words: str
) -> None:
    ran = run("vault", "keygen", "key", "--owner", "anna", *options)
    assert ran.code == 2 and words in ran.err


def test_a_wrapping_key_can_be_brought(vault: FakeVault, run: Run, pem: Path, fd: Fd) -> None:
    ran = run(
        "vault",
        "keygen",
        "key",
        "--owner",
        "anna",
        "--wrapping-key",
        str(pem),
        "--passphrase-fd",
        fd(WORD),
        "--json",
    )
    assert document(ran)["suite"] == "p256"


def test_register_and_confirm(vault: FakeVault, ask: Run, run: Run, home: Path) -> None:
    vault.keys.clear()
    none = run("vault", "keys")
    assert (none.code, none.out) == (0, "(none)\n") and "name the owner: hsmd vault keys OWNER" in none.err
    ran = ask("register", "--json")
    made = document(ran)
    assert (made["state"], made["fingerprint"]) == ("pending", management_key().statement.fingerprint)
    shown = ask("register")
    assert f"hsmd vault confirm anna {made['fingerprint']}" in shown.err
    wrong = run("vault", "confirm", "anna", "SHA256:wrong")
    assert wrong.code == 2 and "'SHA256:wrong' is not a fingerprint" in wrong.err
    assert run("vault", "confirm", "anna", "SHA256:" + 43 * "a").code == 1
    assert run("vault", "confirm", "anna", made["fingerprint"]).code == 0
    assert [key["state"] for key in document(run("vault", "keys", "--json"))["keys"]] == ["active"]


def test_a_management_key_that_is_held_after_a_restore_is_shown_with_the_next_step(
    vault: FakeVault, ask: Run, run: Run, pem: Path
) -> None:
    assert ask("put", "www", str(pem)).code == 0
    vault.keys[0].held = True
    assert document(run("vault", "keys", "--json"))["keys"][0]["held"] is True
    shown = run("vault", "keys")
    assert "active, held" in shown.out
    assert "until an operator confirms it again: hsmd vault confirm anna FINGERPRINT" in shown.err
    refused = ask("get", "www", "--output", "x")
    assert (
        refused.code != 0
        and "`hsmd vault keys` shows which management key is active, and whether it is held" in refused.err
    )
    assert run("vault", "confirm", "anna", management_key().statement.fingerprint).code == 0
    shown = run("vault", "keys")
    assert "held" not in shown.out + shown.err
    assert ask("get", "www", "--output", "x").code == 0


def test_the_passphrase_is_not_in_arguments_and_a_wrong_one_is_told(ask: Run) -> None:
    ran = ask("register", word=b"wrong")
    assert ran.code == 1
    assert ran.err == (
        "hsmd: the passphrase does not open the file, or the file was altered - try again, or use the backup of the key\n"
    )


def test_without_a_terminal_the_passphrase_is_asked_for_by_descriptor(
    vault: FakeVault, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_terminal(_: str) -> str:
        raise getpass.GetPassWarning

    def end_of_input(_: str) -> str:
        raise EOFError

    monkeypatch.setattr(getpass, "getpass", no_terminal)
    ran = run("vault", "register")
    assert ran.code == 2
    assert "there is no terminal to ask for the passphrase - give it with --passphrase-fd" in ran.err
    monkeypatch.setattr(getpass, "getpass", end_of_input)
    assert "no passphrase was typed; nothing was done" in run("vault", "register").err


def test_a_lost_file_names_the_backup(vault: FakeVault, ask: Run, home: Path) -> None:
    (home / ".config" / "hsmd" / "management-key").unlink()
    ran = ask("get", "www", "--output", "x")
    assert (
        "there is no management key in" in ran.err
        and "name the backup of yours with --management-key" in ran.err
    )


def test_the_management_key_of_another_owner_is_named(vault: FakeVault, ask: Run, home: Path) -> None:
    other = home / "other"
    management_files.write_new(other, management_files.encrypted(management_key(owner="bert"), WORD, CHEAP))
    ran = ask("generate", "www", "--management-key", str(other))
    assert ran.code == 2
    assert f"the management key in {other} is that of bert, and you log in as anna" in ran.err


# --- deposits and acquisitions ---


def test_put_and_get_a_file(vault: FakeVault, ask: Run, pem: Path, home: Path) -> None:
    put = document(
        ask("put", "www", str(pem), "--not-after", "90d", "--max-uses", "3", "--mode", "deny", "--json")
    )
    assert (put["record"], put["version"], put["max_uses"], put["mode"]) == ("www", 1, 3, "deny")
    assert put["public_key"].encode() == public_of(pem)
    out = home / "out.pem"
    got = document(ask("get", "www", "--output", str(out), "--json"))
    assert (got["version"], got["requests"], got["released"], got["uses_left"], got["file"]) == (
        1,
        1,
        1,
        2,
        str(out),
    )
    assert out.read_bytes() == pem.read_bytes()
    assert stat.S_IMODE(out.stat().st_mode) == 0o600


def test_get_shows_the_uses_that_are_left(vault: FakeVault, ask: Run, pem: Path) -> None:
    ask("put", "www", str(pem), "--max-uses", "3")
    assert "2 of 3 left" in ask("get", "www", "--output", "a").out
    ask("put", "mail", str(pem))
    assert "no limit" in ask("get", "mail", "--output", "b").out


def test_get_writes_to_a_pipe(vault: FakeVault, ask: Run, pem: Path) -> None:
    ask("put", "www", str(pem), "--max-uses", "2")
    ran = ask("get", "www", "--stdout")
    assert (ran.code, ran.out.encode()) == (0, pem.read_bytes())
    assert "uses: 1 of 2 left" in ran.err


def test_get_never_writes_to_a_terminal(
    vault: FakeVault, ask: Run, pem: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    ran = ask("get", "www", "--stdout")
    assert ran.code == 2 and "a private key is not written to a terminal - redirect the output" in ran.err
    assert vault.asked == []


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ([], "choose one of --output, --stdout, --into-token and --bare"),
        (["--stdout", "--output", "x"], "choose one of"),
        (["--stdout", "--json"], "--stdout writes the key, and cannot be --json"),
        (["--output", "www.pem"], "exists and is not overwritten"),
    ],
)
def test_get_refuses_a_target_before_it_asks(
    vault: FakeVault, ask: Run, pem: Path, options: list[str], words: str
) -> None:
    ran = ask("get", "www", *options)
    assert ran.code != 0 and words in ran.err
    assert vault.asked == []


@pytest.mark.parametrize(
    ("key_type", "arguments", "code", "words"),
    [
        ("aes-256", ["get", "--output", "out", "--encrypt"], 1, "--encrypt is for private keys, and www is a symmetric one"),
        ("aes-256", ["get", "--output", "out", "--der"], 1, "--der is for private keys"),
        ("aes-256", ["run"], 2, "a symmetric key is of no use to SSH - take it out: hsmd vault get; no use was counted"),
        ("x25519", ["run"], 1, "www is of the type x25519 (no use was counted)"),
    ],
)  # fmt: skip
def test_a_key_that_cannot_be_used_so_is_refused_before_the_use_is_counted(
    vault: FakeVault,
    ask: Run,
    run: Run,
    home: Path,
    fd: Fd,
    key_type: str,
    arguments: list[str],
    code: int,
    words: str,
) -> None:
    assert ask("generate", "www", "--type", key_type, "--max-uses", "1").code == 0
    verb, *options = arguments
    more = ["--key-passphrase-fd", fd(b"other word")] if "--encrypt" in options else []
    ran = run(
        "vault", verb, "www", *options, *more, "--passphrase-fd", fd(WORD), *(["--", "true"] if verb == "run" else [])
    )  # fmt: skip
    assert ran.code == code and words in ran.err, ran.err
    assert not (home / "out").exists() and not any(isinstance(each, VaultGet) for each in vault.asked)


def test_get_encrypts_if_asked_to(vault: FakeVault, ask: Run, pem: Path, home: Path, fd: Fd) -> None:
    ask("put", "www", str(pem))
    assert ask("get", "www", "--output", "out", "--encrypt", "--key-passphrase-fd", fd(b"other")).code == 0
    content = (home / "out").read_bytes()
    assert b"ENCRYPTED" in content
    assert (
        load_pem_private_key(content, b"other").public_key()
        == load_pem_private_key(pem.read_bytes(), None).public_key()
    )


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["put", "www", "www.pem", "--not-after", "2020-01-01"], "--not-after: 2020-01-01T00:00Z has passed already"),
        (["generate", "www", "--not-after", "2020-01-01"], "has passed already - give a time to come"),
        (["put", "www", "www.pem", "--not-before", "9d", "--not-after", "8d"], "the term ends before it begins"),
        (["generate", "www", "--not-before", "8d", "--not-after", "8d"], "the term ends before it begins"),
        (["limits", "www", "--not-before", "9d", "--not-after", "8d"], "the term ends before it begins"),
        (["limits", "www", "--max-uses", "3", "--reason", "a\nb"], "not one printable line of at most 256 characters"),
        (["suspend", "www", "--version", "1", "--reason", "x" * 257], "not one printable line"),
        (["revoke", "www", "--version", "1", "--compromised", "--since", "2999-01-01"], "2999-01-01T00:00Z is in the future"),
        (["generate", "www", "--type", "ed25519", "--token", "owner.toml"], "a token does not make and wrap a key of the type"),
    ],
)  # fmt: skip
def test_options_are_judged_before_a_passphrase_is_asked_for(
    vault: FakeVault, run: Run, pem: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], words: str
) -> None:
    monkeypatch.setattr(getpass, "getpass", lambda *_: pytest.fail("a passphrase was asked for"))
    ran = run("vault", *arguments)
    assert ran.code == 2 and words in " ".join(ran.err.split()), ran.err
    assert vault.asked == []


def test_put_asks_for_the_passphrase_of_a_file(vault: FakeVault, ask: Run, home: Path, fd: Fd) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    (home / "e.pem").write_bytes(
        key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"file"))
    )
    assert ask("put", "www", "e.pem", "--key-passphrase-fd", fd(b"file")).code == 0
    ran = ask("put", "www", "e.pem", "--key-passphrase-fd", fd(b"nope"))
    assert ran.code == 1 and "the passphrase does not open the key file" in ran.err


def test_symmetric_keys(vault: FakeVault, ask: Run, home: Path) -> None:
    (home / "s.hex").write_text(bytes(range(32)).hex())
    assert ask("put", "session", "s.hex", "--secret", "hex").code == 0
    assert ask("get", "session", "--output", "s").code == 0
    assert (home / "s").read_bytes() == bytes(range(32))
    ran = ask("put", "session", "s.hex", "--secret", "utf8")
    assert ran.code == 2 and "'utf8' is none of raw, hex, base64" in ran.err


@pytest.mark.parametrize("kind", ["p-256", "ed25519", "x25519", "rsa-2048", "aes-256"])
def test_generate(vault: FakeVault, ask: Run, home: Path, kind: str) -> None:
    made = document(ask("generate", "new", "--type", kind, "--public", "pub", "--json"))
    assert bool(made["public_key"]) is (kind != "aes-256")
    assert (home / "pub").exists() is (kind != "aes-256")
    assert ask("get", "new", "--output", "out").code == 0


def test_unknown_types_are_named(vault: FakeVault, ask: Run) -> None:
    ran = ask("generate", "new", "--type", "p-192")
    assert ran.code == 2 and "'p-192' is none of rsa-2048" in ran.err


def test_a_refused_proof_says_where_to_look(vault: FakeVault, ask: Run, pem: Path) -> None:
    ask("put", "www", str(pem))

    def refuse(request: Any, answer: Any) -> Any:
        if isinstance(request, VaultGet):
            raise Refused
        return answer

    vault.alter = refuse
    ran = ask("get", "www", "--output", "x")
    assert ran.code == 1 and "`hsmd vault keys` shows which management key is active" in ran.err


@pytest.mark.parametrize(
    ("state", "words"),
    [
        (
            "pending",
            "yet - an operator compares the fingerprint with yours, and runs: hsmd vault confirm anna SHA256:",
        ),
        ("replaced", "is replaced, and proves nothing any more - name the file of the active one"),
        ("lost", "is lost, and proves nothing any more - name the file of the active one"),
        ("", "is not registered - register it: hsmd vault register"),
    ],
)
def test_a_management_key_that_does_not_count_is_told(
    vault: FakeVault, ask: Run, state: str, words: str
) -> None:
    vault.keys = [msgspec.structs.replace(vault.keys[0], state=state)] if state else []
    ran = ask("generate", "www")
    assert ran.code == 1 and words in ran.err


def test_what_can_be_wrong_without_the_management_key_is_told_before_it_is_asked_for(
    vault: FakeVault, run: Run, home: Path
) -> None:
    """There is no terminal: asking would be an error of its own."""
    (home / "no-key").write_text("x")
    assert "missing.pem cannot be read" in run("vault", "put", "www", "missing.pem").err
    assert "the key file is neither PEM" in run("vault", "put", "www", str(home / "no-key")).err
    assert "'p-192' is none of" in run("vault", "generate", "www", "--type", "p-192").err
    public = run("vault", "generate", "www", "--public", str(home / "none" / "pub"))
    assert f"there is no directory {home / 'none'}" in public.err


def test_a_used_up_record_says_so(vault: FakeVault, ask: Run, pem: Path) -> None:
    ask("put", "www", str(pem), "--max-uses", "1", "--mode", "deny")
    ask("get", "www", "--output", "one")
    ran = ask("get", "www", "--output", "two")
    assert ran.code == 1 and "taken out 1 times, and 1 are allowed" in ran.err


# --- a daemon that lies: each has its own text, and exit code 4 ---


def test_an_altered_envelope(vault: FakeVault, ask: Run, pem: Path) -> None:
    ask("put", "www", str(pem))
    version = vault.struct("www")
    version.envelope = version.envelope[:-1] + bytes([version.envelope[-1] ^ 1])
    ran = ask("get", "www", "--output", "x")
    assert ran.code == 4 and not Path("x").exists()
    assert "the envelope of www version 1 is not the one that you deposited" in ran.err
    assert "- do not use it: deposit the key again from another copy, and tell the operators" in ran.err


def test_an_older_statement(vault: FakeVault, ask: Run, pem: Path) -> None:
    ask("put", "www", str(pem), "--max-uses", "9")
    assert ask("limits", "www", "--max-uses", "1").code == 0
    vault.struct("www").statements.pop()
    ran = ask("get", "www", "--output", "x")
    assert ran.code == 4
    assert "gave statement 1 of www version 1, and this machine has seen number 2" in ran.err


def test_a_foreign_management_key(vault: FakeVault, ask: Run, pem: Path, home: Path) -> None:
    ask("put", "www", str(pem))
    stranger = management_key(WrappingSuite.P256)
    management_files.write_new(home / "other", management_files.encrypted(stranger, WORD, CHEAP))
    vault.keys[0] = vault._info(stranger.statement, "active", stranger.signed.signature)
    ran = ask("get", "www", "--output", "x", "--management-key", str(home / "other"))
    assert ran.code == 4
    assert (
        "was deposited with another management key" in ran.err
        and "- use the file or backup of that key" in ran.err
    )


# --- lists and changes ---


def test_list_and_show(vault: FakeVault, run: Run, ask: Run, pem: Path) -> None:
    for record in ("www", "mail", "www"):
        ask("put", record, str(pem), "--max-uses", "2")
    ask("get", "mail", "--output", "m")
    shown = run("vault", "list").out
    assert [line.split()[:3] for line in shown.splitlines()[1:]] == [
        ["mail", "1", "active"],
        ["www", "2", "active"],
    ]
    assert "1 of 2" in shown
    versions = document(run("vault", "show", "www", "--json"))["versions"]
    assert [(each["version"], each["state"]) for each in versions] == [(2, "active"), (1, "deactivated")]
    ran = run("vault", "show", "nothing")
    assert ran.code == 1 and "there is no 'nothing'" in ran.err


def test_limits(vault: FakeVault, ask: Run, pem: Path) -> None:
    ask("put", "www", str(pem), "--max-uses", "9", "--not-after", "90d")
    changed = document(
        ask("limits", "www", "--not-after", "none", "--max-uses", "12", "--reason", "more", "--json")
    )
    assert (changed["number"], changed["not_after"], changed["max_uses"], changed["reason"]) == (
        2,
        "",
        12,
        "more",
    )
    ran = ask("limits", "www")
    assert ran.code == 2 and "nothing to change" in ran.err
    vault.struct("www").held = True
    assert ask("get", "www", "--output", "x").code == 1
    vault.struct("www").released = 5
    vault.struct("www").requests = 6
    confirmed = document(ask("limits", "www", "--confirm", "--json"))
    assert (confirmed["requests"], confirmed["released"], confirmed["uses_left"]) == (6, 5, 7)
    assert re.search(r"uses +5 of 12, 1 refused\n", ask("limits", "www", "--confirm").out)
    assert ask("get", "www", "--output", "x").code == 0
    assert ask("limits", "www", "--max-uses", "9").err == ""
    fewer = ask("limits", "www", "--max-uses", "2", "--mode", "deny")
    assert fewer.code == 0 and "It is not given out any more: it was taken out 6 times" in fewer.err
    assert "For one more use: --max-uses 7" in fewer.err
    announced = ask("limits", "www", "--mode", "notify")
    assert announced.code == 0 and "Its maximum is reached: it was taken out 6 times" in announced.err


def test_limits_that_were_accepted_are_shown_even_if_the_uses_cannot_be_read(
    vault: FakeVault, ask: Run, pem: Path
) -> None:
    """An error in place of the result would have the owner, or a script, take the change for one that was not made."""
    ask("put", "www", str(pem), "--max-uses", "9")

    def alter(request: Any, answer: Any) -> Any:
        if isinstance(request, messages.VaultShow) and vault.struct("www").head.number > 1:
            raise Unavailable("the daemon has closed the connection")
        return answer

    vault.alter = alter
    ran = ask("limits", "www", "--max-uses", "3", "--json")
    changed = document(ran)
    assert (changed["number"], changed["max_uses"], "requests" in changed) == (2, 3, False)
    assert "hsmd: the uses that are counted are not known: the daemon has closed the connection" in ran.err


def test_suspend_needs_no_management_key_and_resume_does(
    vault: FakeVault, run: Run, ask: Run, pem: Path
) -> None:
    ask("put", "www", str(pem))
    assert run("vault", "suspend", "www", "--version", "1", "--reason", "stolen").code == 0
    ran = ask("get", "www", "--output", "x")
    assert ran.code == 1 and "suspended" in ran.err
    assert ask("resume", "www", "--version", "1").code == 0
    assert ask("get", "www", "--output", "x").code == 0


def test_revoke_and_destroy(vault: FakeVault, ask: Run, pem: Path) -> None:
    ask("put", "www", str(pem))
    assert document(ask("revoke", "www", "--version", "1", "--json"))["standing"] == "revoked"
    ran = ask("revoke", "www", "--version", "1", "--since", "3d")
    assert ran.code == 2 and "--since goes with --compromised" in ran.err
    later = document(ask("revoke", "www", "--version", "1", "--compromised", "--json"))
    assert later["standing"] == "compromised" and later["compromised_at"]
    ran = ask("destroy", "www", "--version", "1", "--confirm", "wwww")
    assert ran.code == 2 and "nothing was destroyed" in ran.err
    ran = ask("destroy", "www", "--version", "1")
    assert ran.code == 2 and "add --confirm www" in ran.err
    assert (
        document(ask("destroy", "www", "--version", "1", "--confirm", "www", "--json"))["standing"]
        == "destroyed"
    )
    assert vault.struct("www").envelope == b""


def test_rekey(vault: FakeVault, run: Run, ask: Run, pem: Path, home: Path, fd: Fd) -> None:
    for record in ("www", "mail"):
        ask("put", record, str(pem))
    old = str(home / ".config" / "hsmd" / "management-key")
    ran = run(
        "vault", "keygen", "new", "--owner", "anna", "--replaces", old, "--replaces-passphrase-fd", fd(WORD),
        "--passphrase-fd", fd(TWO), "--json",
    )  # fmt: skip
    assert document(ran)["number"] == 2
    done = document(ask("rekey", "new", "--new-passphrase-fd", fd(TWO), "--json"))
    assert done == {"wrapped": 2, "failed": {}, "finished": True}
    again = ask("rekey", "new", "--new-passphrase-fd", fd(TWO))
    assert again.code == 0 and f"mv new {old}" in again.err, "only this was forgotten"
    assert ask("get", "www", "--output", "x").code != 0, "the old key opens nothing"
    again = ask("get", "www", "--output", "x", "--management-key", "new", word=TWO)
    assert (again.code, (home / "x").read_bytes()) == (0, pem.read_bytes())


def test_a_key_that_is_not_wrapped_anew_is_taken_out_with_both_management_keys(
    vault: FakeVault, run: Run, ask: Run, pem: Path, home: Path, fd: Fd
) -> None:
    ask("put", "www", str(pem))
    old = str(home / ".config" / "hsmd" / "management-key")
    management_files.write_new(home / "new", management_files.encrypted(management_key(number=2), TWO, CHEAP))
    vault.keys[0].state = "replaced"
    vault.register(management_key(number=2))
    ran = ask("get", "www", "--output", "x", "--management-key", "new", word=TWO)
    assert ran.code == 4 and "name the file of that key with --old-management-key" in ran.err
    assert not any(isinstance(each, VaultGet) for each in vault.asked), "no use was counted"
    both = "--management-key", "new", "--old-management-key", old, "--old-passphrase-fd"
    ran = ask("get", "www", "--output", "x", *both, fd(WORD), word=TWO)
    assert (ran.code, (home / "x").read_bytes()) == (0, pem.read_bytes()), ran.err


def test_rekey_names_what_failed(vault: FakeVault, run: Run, ask: Run, pem: Path, home: Path, fd: Fd) -> None:
    ask("put", "www", str(pem))
    vault.struct("www").envelope = b"x" + vault.struct("www").envelope
    old = str(home / ".config" / "hsmd" / "management-key")
    run(
        "vault", "keygen", "new", "--owner", "anna", "--replaces", old, "--replaces-passphrase-fd", fd(WORD),
        "--passphrase-fd", fd(WORD),
    )  # fmt: skip
    ran = ask("rekey", "new", "--new-passphrase-fd", fd(WORD))
    assert ran.code == 4
    assert "www/1" in ran.out and "keep both management keys" in ran.err


# --- checks ---


@pytest.fixture
def checker(vault: FakeVault, ask: Run, pem: Path, home: Path) -> Path:
    """The public half of a deposited key, and a profile of a checker; the owner has allowed it."""
    ask("put", "www", str(pem), "--max-uses", "5")
    assert ask("allow", CLIENT).code == 0
    (home / "checker.toml").write_text(
        f'daemon = "192.0.2.1:7440"\nuser = "{CLIENT}"\nidentity = "id"\nhost_keys = ["ssh-ed25519 AAAA"]\n'
        f'statement_keys = ["{vault.verifier.vkey}"]\n'
    )
    public = home / "www.pub"
    public.write_bytes(public_of(pem))
    return public


def check(run: Run, *arguments: str) -> Ran:
    return run("vault", "check", *arguments, "--profile", "checker.toml")


def test_exit_codes_of_check(vault: FakeVault, run: Run, ask: Run, checker: Path, home: Path) -> None:
    found = document(check(run, "anna", str(checker), "--statement", "answer", "--json"))
    assert (found["verdict"], found["usable"], found["record"], found["uses_left"]) == (
        "match",
        True,
        "www",
        5,
    )
    assert (home / "answer").read_text() == found["statement"]
    other = home / "other.pub"
    other.write_bytes(
        Ed25519PrivateKey.generate().public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH)
    )
    mismatch = check(run, "anna", str(other), "--json")
    assert (mismatch.code, json.loads(mismatch.out)["verdict"]) == (3, "mismatch")
    assert check(run, "nemo", str(checker)).code == 4
    assert mismatch.err == "", "hints would be in the way of programs"
    assert ask("revoke", "www", "--version", "1").code == 0
    unusable = check(run, "anna", str(checker))
    assert unusable.code == 5 and "revoked" not in unusable.err and "deactivated" in unusable.out


def test_check_says_what_a_verdict_means(
    vault: FakeVault, run: Run, ask: Run, checker: Path, home: Path
) -> None:
    """On standard error: the result on standard output stays the same."""
    assert check(run, "anna", str(checker)).err == ""
    unknown = check(run, "nemo", str(checker))
    assert "nemo has not allowed you" in unknown.err and f"hsmd vault allow {CLIENT}" in unknown.err
    other = home / "other.pub"
    other.write_bytes(
        Ed25519PrivateKey.generate().public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH)
    )
    assert "anna has not deposited it." in check(run, "anna", str(other)).err
    assert "anna has not deposited it under mail." in check(run, "anna", str(other), "--record", "mail").err
    assert ask("revoke", "www", "--version", "1").code == 0
    unusable = check(run, "anna", str(checker))
    assert "Do not rely on this key now" in unusable.err and "hsmd vault show www" in unusable.err


def test_a_failed_check_is_never_taken_for_a_verdict(vault: FakeVault, run: Run, checker: Path) -> None:
    """3 is a mismatch here, so that a daemon that is away is 1, unlike elsewhere."""

    def away(request: Any, answer: Any) -> Any:
        if isinstance(request, VaultCheck):
            raise Unavailable("it is away")
        return answer

    vault.alter = away
    ran = check(run, "anna", str(checker), "--json")
    assert (ran.code, json.loads(ran.out)["error"]["exit_code"]) == (1, 1)
    vault.alter = lambda request, answer: (
        VaultChecked(answer.statement.replace("usable yes", "usable no"))
        if isinstance(request, VaultCheck)
        else answer
    )
    ran = check(run, "anna", str(checker))
    assert ran.code == 1 and "was altered after it was signed - do not rely on it" in ran.err


def test_a_new_statement_key_is_fetched_but_must_follow_from_the_pinned_one(
    vault: FakeVault, run: Run, checker: Path
) -> None:
    vault.signer = Ed25519PrivateKey.generate()
    ran = check(run, "anna", str(checker))
    assert ran.code == 1 and "none of the keys given is that one" in ran.err
    assert any(isinstance(request, messages.StatementKeys) for request in vault.asked)


def test_authorized_keys(vault: FakeVault, run: Run, ask: Run, checker: Path) -> None:
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    line = (
        load_pem_public_key(checker.read_bytes())
        .public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH)
        .decode()
    )  # type: ignore[call-arg]
    kind, key = line.split()

    def asked(user: str, *options: str) -> Ran:
        return run("vault", "authorized-keys", user, kind, key, "--profile", "checker.toml", *options)

    assert asked("anna") == Ran(0, f"{line}\n", "")
    assert asked("deploy", "--owner", "anna", "--options", "restrict").out == f"restrict {line}\n"
    refused = asked("bert")
    assert (refused.code, refused.out) == (0, "")
    assert "no-answer: the key is not accepted for bert" in refused.err
    ask("revoke", "www", "--version", "1")
    assert asked("anna").out == ""
    assert asked("anna@example.org").out == ""


def test_allow_disallow_and_who_asked(vault: FakeVault, run: Run, ask: Run) -> None:
    assert ask("allow", "web1").code == 0 and ask("allow", "--checkers").code == 0
    assert document(run("vault", "allowed", "--json")) == {"clients": ["web1"], "checkers": True}
    assert ask("disallow", "web1").code == 0 and ask("disallow", "--checkers").code == 0
    assert document(run("vault", "allowed", "--json")) == {"clients": [], "checkers": False}
    ran = ask("allow")
    assert ran.code == 2 and "name either a client or --checkers" in ran.err
    assert "match" in run("vault", "checks").out


def test_events_of_the_vault(vault: FakeVault, run: Run) -> None:
    shown = document(run("vault", "events", "--json"))["events"]
    assert [(each["kind"], each["subject"]) for each in shown] == [("vault.expiring", "anna/www")]


def test_secrets_are_in_no_error_and_no_output(vault: FakeVault, ask: Run, pem: Path, home: Path) -> None:
    ran = [
        ask("put", "www", str(pem)),
        ask("get", "www", "--output", "x", "--debug"),
        ask("get", "www", "--output", "x", "--debug"),
    ]
    secret = b"".join(pem.read_bytes().splitlines()[1:-1])[20:60].decode()
    for each in ran:
        assert secret not in each.out + each.err
        assert WORD.decode() not in each.out + each.err


def test_run_gives_one_program_an_agent(vault: FakeVault, ask: Run, run: Run, fd: Fd, home: Path) -> None:
    ask("generate", "laptop", "--type", "ed25519", "--public", "laptop.pub", "--max-uses", "2")
    script = "import os, pathlib; s = pathlib.Path(os.environ['SSH_AUTH_SOCK']); assert s.is_socket(); pathlib.Path('seen').write_text(str(s))"
    ran = run("vault", "run", "laptop", "--passphrase-fd", fd(WORD), "--", sys.executable, "-c", script)
    assert ran.code == 0, ran.err
    assert "laptop version 1, uses: 1 of 2 left" in ran.err
    assert not Path((home / "seen").read_text()).exists()
    failed = run(
        "vault",
        "run",
        "laptop",
        "--passphrase-fd",
        fd(WORD),
        "--",
        sys.executable,
        "-c",
        "raise SystemExit(7)",
    )
    assert failed.code == 7
    asked = len(vault.asked)
    missing = run("vault", "run", "laptop", "--passphrase-fd", fd(WORD), "--", "no-such-program")
    assert (
        missing.code == 2
        and "there is no program no-such-program" in missing.err
        and len(vault.asked) == asked
    )
    ask("generate", "aes", "--type", "aes-256")
    refused = run("vault", "run", "aes", "--passphrase-fd", fd(WORD), "--", "true")
    assert refused.code == 2 and "a symmetric key is of no use to SSH" in refused.err
