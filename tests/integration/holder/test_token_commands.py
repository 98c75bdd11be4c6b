"""`hsmd vault` with tokens of the owner's: second copies, keys that are sealed and kept there, and what is refused before it costs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.support.owner_token import OwnerToken
from tests.support.tokens import in_token

PRELUDE = """
import contextlib, io
from datetime import UTC, datetime
from pathlib import Path
from hsmd import cli
from hsmd.cli.base import connection
from hsmd.holder import management_files
from hsmd.protocol.messages import VaultGet
from tests.support.fake_vault import FakeVault

Path("profile.toml").write_text(
    'daemon = "192.0.2.1:7440"\\nuser = "anna"\\nidentity = "id"\\nhost_keys = ["ssh-ed25519 AAAA"]\\n')
vault = FakeVault(now=datetime.now(UTC))
connection.connect = lambda profile, witness=None: vault
def hsmd(*words, profile=True):
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = cli.run(["vault", *words, *(["--profile", "profile.toml"] if profile else []), "--json"])
    return int(code), json.loads(out.getvalue()) if out.getvalue() else {}, err.getvalue()
def done(*words, **options):
    code, document, error = hsmd(*words, **options)
    assert code == 0, error
    return document
def refused(*words):
    code, document, _ = hsmd(*words)
    assert code != 0, document
    return document["error"]["text"] + " - " + document["error"]["next"]
def word(text):
    reading, writing = os.pipe()
    os.write(writing, text.encode() + b"\\n")
    os.close(writing)
    return str(reading)
def registered(file):
    done("register", "--management-key", file)
    vault.keys[0].state = "active"
def gets(): return sum(isinstance(each, VaultGet) for each in vault.asked)
def show(value): print(json.dumps(value))
"""


@pytest.fixture(scope="module")
def owner(tmp_path_factory: pytest.TempPathFactory) -> OwnerToken:
    made = OwnerToken(tmp_path_factory.mktemp("commands"))
    made.add_token("second")
    return made


def run(owner: OwnerToken, directory: Path, script: str) -> Any:
    """A script in a directory with the settings of both tokens."""
    for name in ("owner.toml", "second.toml"):
        target = directory / name
        target.write_text((owner.directory / name).read_text())
        target.chmod(0o600)
    return owner.run(f"os.chdir({str(directory)!r})\n{PRELUDE}{script}")


def test_a_second_copy_in_a_second_token(owner: OwnerToken, tmp_path: Path) -> None:
    """Lost with the first token is nothing: the copy registers as the same key, and opens what was deposited."""
    found = run(
        owner, tmp_path,
        """
made = done("keygen", "key", "--owner", "anna", "--token", "owner.toml", "--backup", "copy", "--backup-token", "second.toml",
            profile=False)
registered("key")
done("generate", "www", "--type", "p-256", "--management-key", "key")
done("get", "www", "--output", "one", "--management-key", "key")
done("get", "www", "--output", "two", "--management-key", "copy")
show([made["suite"], made["files"], Path("one").read_bytes() == Path("two").read_bytes(),
      management_files.read(Path("copy"))[0].token.settings.endswith("second.toml")])
""",
    )  # fmt: skip
    assert found == ["rsa", ["key", "copy"], True, True]


def test_a_key_in_a_token_and_its_copy_in_a_file(owner: OwnerToken, tmp_path: Path) -> None:
    found = run(
        owner, tmp_path,
        """
done("keygen", "key", "--owner", "anna", "--suite", "p256", "--token", "owner.toml", "--backup", "copy",
     "--backup-passphrase-fd", word("correct horse"), profile=False)
registered("key")
done("generate", "www", "--type", "ed25519", "--management-key", "key")
done("get", "www", "--output", "one", "--management-key", "copy", "--passphrase-fd", word("correct horse"))
show(Path("one").stat().st_size > 0)
""",
    )  # fmt: skip
    assert found is True


def test_keys_are_sealed_in_the_token_and_kept_there(owner: OwnerToken, tmp_path: Path) -> None:
    found = run(
        owner, tmp_path,
        """
done("keygen", "key", "--owner", "anna", "--token", "owner.toml", profile=False)
registered("key")
kept = []
for kind in ("p-256", "p-384", "rsa-2048"):
    done("generate", kind, "--type", kind, "--token", "owner.toml", "--management-key", "key")
    kept.append(done("get", kind, "--into-token", "owner.toml", "--label", f"kept-{kind}", "--management-key", "key"))
done("generate", "soft", "--type", "ed25519", "--management-key", "key")
elsewhere = done("get", "p-256", "--into-token", "second.toml", "--label", "elsewhere", "--management-key", "key")
before = gets()
taken = refused("get", "p-256", "--into-token", "owner.toml", "--label", "kept-p-256", "--management-key", "key")
missing = refused("get", "p-256", "--output", "nowhere/key.pem", "--management-key", "key")
show([[each["never_in_memory"] for each in kept], elsewhere["never_in_memory"], taken, missing, gets() - before])
""",
    )  # fmt: skip
    never, elsewhere, taken, missing, asked = found
    assert (never, elsewhere, asked) == ([True] * 3, False, 0)
    assert "a private key with the label 'kept-p-256' already; choose another label" in taken
    assert "its directory is missing" in missing


def test_a_key_that_a_token_does_not_take_is_refused_before_the_use_is_counted(
    owner: OwnerToken, tmp_path: Path
) -> None:
    found = run(
        owner, tmp_path,
        """
done("keygen", "key", "--owner", "anna", "--token", "owner.toml", profile=False)
registered("key")
said, before = [], gets()
for kind in ("x25519", "aes-256"):
    done("generate", kind, "--type", kind, "--management-key", "key")
    said.append(refused("get", kind, "--into-token", "owner.toml", "--label", kind, "--management-key", "key"))
show([said, gets() - before, [vault.struct(kind).released for kind in ("x25519", "aes-256")]])
""",
    )  # fmt: skip
    (x25519, aes), asked, released = found
    assert "tokens take no key of the type x25519, and x25519 is one (no use was counted)" in x25519
    assert "a symmetric key is not put into a token (no use was counted)" in aes
    assert (asked, released) == (0, [0, 0])


def test_a_key_of_the_token_is_deposited_if_it_may_leave_it(owner: OwnerToken, tmp_path: Path) -> None:
    in_token(
        owner.token,
        "for label, leaves in (('mine', True), ('stuck', False)):\n"
        "    session.generate_keypair(K.RSA, 2048, store=True, label=label, private_template={A.EXTRACTABLE: leaves})",
    )
    found = run(
        owner, tmp_path,
        """
done("keygen", "key", "--owner", "anna", "--token", "owner.toml", profile=False)
registered("key")
done("put", "mine", "--token", "owner.toml", "--label", "mine", "--management-key", "key")
show([vault.struct("mine").head.kind, refused("put", "x", "--token", "owner.toml", "--label", "stuck", "--management-key", "key"),
      refused("put", "x", "--token", "owner.toml", "--label", "none", "--management-key", "key")])
""",
    )  # fmt: skip
    kind, stuck, none = found
    assert kind == "private-key"
    assert "does not let the key 'stuck' leave it" in stuck
    assert "no private key with the label 'none'" in none


def test_what_a_token_cannot_seal_is_named(owner: OwnerToken, tmp_path: Path) -> None:
    found = run(
        owner, tmp_path,
        """
done("keygen", "key", "--owner", "anna", "--suite", "p256", "--token", "owner.toml", profile=False)
registered("key")
show([refused("generate", "x", "--type", "p-256", "--token", "owner.toml", "--management-key", "key"),
      refused("generate", "x", "--type", "ed25519", "--token", "owner.toml", "--management-key", "key")])
""",
    )  # fmt: skip
    assert "a token seals to RSA keys only, and your management key is of the suite p256" in found[0]
    assert "a token does not make and wrap a key of the type ed25519" in found[1]


def test_a_management_key_moves_from_a_file_into_a_token(owner: OwnerToken, tmp_path: Path) -> None:
    """The replacement opens with the one and seals to the other; the proof of the new one is made in the token."""
    found = run(
        owner, tmp_path,
        """
done("keygen", "old", "--owner", "anna", "--passphrase-fd", word("correct horse"), profile=False)
code, _, error = hsmd("register", "--management-key", "old", "--passphrase-fd", word("correct horse"))
assert code == 0, error
vault.keys[0].state = "active"
for record in ("a", "b"):
    done("generate", record, "--management-key", "old", "--passphrase-fd", word("correct horse"))
done("keygen", "new", "--owner", "anna", "--token", "owner.toml", "--replaces", "old", "--replaces-passphrase-fd", word("correct horse"),
     profile=False)
show([done("rekey", "new", "--management-key", "old", "--passphrase-fd", word("correct horse")),
      done("get", "a", "--output", "a.pem", "--management-key", "new")["released"]])
""",
    )  # fmt: skip
    assert found == [{"wrapped": 2, "failed": {}, "finished": True}, 1]
