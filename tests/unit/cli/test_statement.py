"""`hsmd statement verify` offline: each reason to refuse a statement has its own text, `problem` and exit code."""

from __future__ import annotations

import json
import tomllib
from dataclasses import replace
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from hsmd.cli.base import agent_toml, profile as profiles
from hsmd.cli.base.errors import Exit
from hsmd.cli.base.profile import Profile
from hsmd.transparency.note import Verifier, signed, to_be_signed
from hsmd.transparency.statement import Statement, signer_of
from tests.support.cli import Run

KEY, OTHER = Ed25519PrivateKey.generate(), Ed25519PrivateKey.generate()
TEXT = Statement("deposit-receipt", "fra-1", ("key 00ff", "owner J\u00fcrgen")).text()


def verifier(key: Ed25519PrivateKey = KEY) -> Verifier:
    return Verifier.from_public_key(signer_of("fra-1"), key.public_key())


NOTE = signed(TEXT, verifier(), [KEY.sign(to_be_signed(TEXT))]).render()


@pytest.fixture
def receipt(tmp_path: Path) -> Path:
    path = tmp_path / "receipt"
    path.write_text(NOTE)
    return path


@pytest.fixture
def key(tmp_path: Path) -> Path:
    path = tmp_path / "keys"
    path.write_text(f"{verifier(OTHER).vkey}\n\n{verifier().vkey}\n")
    return path


def profile_with(tmp_path: Path, *keys: str) -> Path:
    path = tmp_path / "operator.toml"
    path.write_text(
        profiles.render(Profile("192.0.2.1:7440", "ann", Path("id"), ("line",), statement_keys=keys))
    )
    return path


def test_a_statement_is_shown_with_kind_daemon_and_body(run: Run, receipt: Path, key: Path) -> None:
    ran = run("statement", "verify", str(receipt), "--key", str(key), "--kind", "deposit-receipt")
    assert (ran.code, ran.err) == (0, "")
    assert [line.split() for line in ran.out.splitlines()[:3]] == [
        ["statement", "valid"],
        ["kind", "deposit-receipt"],
        ["daemon", "fra-1"],
    ]
    assert ran.out.splitlines()[3:] == ["", "key 00ff", "owner J\u00fcrgen"]
    ran = run("statement", "verify", str(receipt), "--key", verifier().vkey, "--json")
    assert json.loads(ran.out) == {
        "valid": True, "kind": "deposit-receipt", "daemon": "fra-1", "lines": ["key 00ff", "owner J\u00fcrgen"],
    }  # fmt: skip


def test_a_statement_from_a_pipe(run: Run, key: Path) -> None:
    assert run("statement", "verify", "-", "--key", str(key), stdin=NOTE).code == 0


@pytest.mark.parametrize(
    ("text", "more", "problem", "code", "reason"),
    [
        (NOTE.replace("00ff", "00fe"), (), "altered", Exit.ALTERED, "was altered after it was signed"),
        (NOTE, ("--kind", "vault-answer"), "other-kind", Exit.OTHER_KIND, "of the kind deposit-receipt"),
        (NOTE, ("--key", verifier(OTHER).vkey), "unknown-key", Exit.UNKNOWN_KEY, "none of the keys given"),
        ("hello\n", (), "malformed", Exit.MALFORMED, "not a signed note"),
        (TEXT, (), "malformed", Exit.MALFORMED, "not a signed note"),
        (NOTE.replace("statement/v1", "statement/v2"), (), "malformed", Exit.MALFORMED, "not a statement"),
        ("\0" * 300_000, (), "malformed", Exit.MALFORMED, "not a signed note"),
    ],
)
def test_each_reason_to_refuse_has_its_own_text_and_exit_code(
    run: Run, tmp_path: Path, text: str, more: tuple[str, ...], problem: str, code: Exit, reason: str
) -> None:
    file = tmp_path / "note"
    file.write_text(text)
    options = more if "--key" in more else ("--key", verifier().vkey, *more)
    ran = run("statement", "verify", str(file), *options)
    assert ran.code == code
    assert problem in ran.out and reason in ran.out
    assert ran.err.startswith("hsmd: ") and ran.err.count("\n") == 1
    as_json = run("statement", "verify", str(file), *options, "--json")
    document = json.loads(as_json.out)
    assert (as_json.code, as_json.err) == (code, "")
    assert (document["valid"], document["problem"]) == (False, problem)
    assert reason in document["reason"]


def test_without_key_those_of_the_profile_count(run: Run, receipt: Path, tmp_path: Path) -> None:
    profile = profile_with(tmp_path, verifier(OTHER).vkey)
    ran = run("statement", "verify", str(receipt), "--profile", str(profile))
    assert ran.code == Exit.UNKNOWN_KEY and "hsmd statement keys" in ran.err
    profile_with(tmp_path, verifier(OTHER).vkey, verifier().vkey)
    assert run("statement", "verify", str(receipt), "--profile", str(profile)).code == 0


def test_without_any_key_the_next_step_is_named(run: Run, receipt: Path, tmp_path: Path) -> None:
    ran = run("statement", "verify", str(receipt), "--profile", str(profile_with(tmp_path)))
    assert ran.code == Exit.USAGE
    assert "no statement key is known" in ran.err and "run `hsmd statement keys` once" in ran.err


def test_wrong_options_are_explained(run: Run, receipt: Path, tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.touch()
    for options, words in (
        (("--kind", "receipt"), "--kind: 'receipt' is none of deposit-receipt"),
        (("--key", str(tmp_path / "missing")), "missing"),
        (("--key", str(receipt)), "--key: not a verifier key"),
        (("--key", str(empty)), "is empty"),
        (("--key", "a+00000000+AAAA"), "--key: not a verifier key"),
    ):
        ran = run("statement", "verify", str(receipt), *options)
        assert ran.code in (Exit.USAGE, Exit.FAILED) and ran.out == "", options
        assert words in ran.err and ran.err.count("\n") == 1, options


def test_nothing_in_a_statement_reaches_the_terminal_unescaped(run: Run, tmp_path: Path) -> None:
    file = tmp_path / "note"
    file.write_text(NOTE.replace("00ff", "\x1b[31m"))
    ran = run("statement", "verify", str(file), "--key", verifier().vkey)
    assert ran.code == Exit.MALFORMED and "\x1b" not in ran.out + ran.err


def test_a_profile_and_an_agents_file_name_only_what_there_is_to_pin() -> None:
    """Earlier releases refuse names that they do not know. Operators' keys are pinned also before the first statement."""
    profile = Profile("192.0.2.1:7440", "ann", Path("id"), ("line",))
    assert "_keys" not in profiles.render(profile).replace("host_keys", "")
    profile = replace(profile, operator_keys=("ssh-ed25519 AAAA",))
    assert tomllib.loads(profiles.render(profile))["operator_keys"] == ["ssh-ed25519 AAAA"]
    assert "statement_keys" not in profiles.render(profile)
    local = agent_toml.Local(Path("/sock"), Path("/state"), ("root",))
    pinned = agent_toml.Pinned("192.0.2.1", ("line",), "web-1", Path("/id"), ("ssh-ed25519 AAAA",))
    assert "statement" not in agent_toml.render(local, pinned)
    keys = (verifier().vkey,)
    assert verifier().vkey in profiles.render(replace(profile, statement_keys=keys))
    assert verifier().vkey in agent_toml.render(local, replace(pinned, statement_keys=keys))
