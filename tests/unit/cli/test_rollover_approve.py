"""`hsmd rollover approve`, and `hsmd rollover show --approval`: what is signed, by which key, and every refusal."""

from __future__ import annotations

import json
import subprocess
from hashlib import sha256
from pathlib import Path
from types import SimpleNamespace

import pytest
import typer
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from hsmd.cli.base import profile as profiles, ssh_keys
from hsmd.cli.base.profile import Profile
from hsmd.cli.rollover import approve
from hsmd.holder.ssh_agent import OneKeyAgent
from hsmd.rollover import plan_document
from hsmd.rollover.plan import Order
from hsmd.rollover.planner import plan
from hsmd.transparency.declaration import operator_verifier
from tests.support.cli import Ran, Run
from tests.support.processes import program
from tests.support.rollover import chain, node_key, star, topology

PLAN = plan(topology(star(2), by_hand=["client2"]))
DIGEST = plan_document.digest(PLAN)
REASON = "reviewed in change 4711"


@pytest.fixture
def file(home: Path) -> Path:
    path = home / "fleet.plan"
    path.write_bytes(plan_document.encode(PLAN))
    return path


@pytest.fixture
def key(home: Path) -> Path:
    path = home / "id"
    ssh_keys.make(path, "ann@example")
    return path


@pytest.fixture
def approved(run: Run, file: Path, key: Path) -> Path:
    assert approving(run, file, key).code == 0
    return file.with_name("fleet.plan.approval")


def approving(run: Run, file: Path, key: Path, *more: str, reason: str = REASON) -> Ran:
    return run("rollover", "approve", str(file), "--key", str(key), "--reason", reason, "--yes", *more)


def showing(run: Run, file: Path, approval: Path, *more: str) -> Ran:
    return run("rollover", "show", str(file), "--approval", str(approval), *more)


def public(key: Path) -> str:
    return f"{key}.pub"


def fields_of(printed: str) -> dict[str, str]:
    """Names and values of lines such as `name   value`."""
    split = (line.strip().split("  ", 1) for line in printed.splitlines())
    return {words[0]: words[1].strip() for words in split if len(words) == 2}


def in_terminal(monkeypatch: pytest.MonkeyPatch, answer: bool) -> list[str]:
    """A terminal in which the question is answered; the questions that were asked."""
    asked: list[str] = []

    def confirm(text: str, *, err: bool) -> bool:
        asked.append(text)
        assert err
        return answer

    monkeypatch.setattr(approve, "sys", SimpleNamespace(stdin=SimpleNamespace(isatty=lambda: True)))
    monkeypatch.setattr(typer, "confirm", confirm)
    return asked


# --- approving ---


def test_what_is_approved_is_shown_signed_and_verified(run: Run, file: Path, key: Path) -> None:
    ran = approving(run, file, key)
    assert ran.code == 0, ran.err
    fingerprint = ssh_keys.read(Path(public(key))).fingerprint
    told = fields_of(ran.err)
    assert {name: told[name] for name in ("digest", "order", "nodes", "time", "reason", "your key")} == {
        "digest": DIGEST, "order": "split", "nodes": "3 with 2 edges",
        "time": "2027-03-01 08:00:00Z to 2027-04-01 08:00:00Z", "reason": REASON, "your key": fingerprint,
    }  # fmt: skip
    assert "changed by hand" in ran.err
    written = fields_of(ran.out)
    assert (written["approved"], written["by"], written["file"]) == (DIGEST, fingerprint, f"{file}.approval")
    shown = showing(run, file, Path(f"{file}.approval"), "--operator-key", public(key))
    assert shown.code == 0, shown.err
    found = fields_of(shown.out)
    assert (found["approved by"], found["at"], found["reason"]) == (fingerprint, written["at"], REASON)


def test_with_json_there_is_one_document(run: Run, file: Path, key: Path) -> None:
    made = json.loads(approving(run, file, key, "--json", "--output", "a").out)
    assert (made["digest"], made["order"], made["nodes"], made["reason"]) == (DIGEST, "split", 3, REASON)
    assert made["note"] == Path("a").read_text()
    line = Path(public(key)).read_text()
    shown = json.loads(showing(run, file, Path("a"), "--operator-key", line, "--json").out)
    assert shown["digest"] == DIGEST == sha256(file.read_bytes()).hexdigest()
    assert shown["approval"] == {"operators": [made["operator"]], "time": made["time"], "reason": REASON}
    assert "approval" not in json.loads(run("rollover", "show", str(file), "--json").out)


def test_a_yes_in_a_terminal_signs(run: Run, file: Path, key: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = in_terminal(monkeypatch, True)
    ran = run("rollover", "approve", str(file), "--key", str(key), "--reason", REASON)
    assert ran.code == 0 and asked == ["Approve it?"]
    assert Path(f"{file}.approval").exists()


def test_a_no_in_a_terminal_signs_nothing(
    run: Run, file: Path, key: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_terminal(monkeypatch, False)
    ran = run("rollover", "approve", str(file), "--key", str(key), "--reason", REASON)
    assert (ran.code, ran.out) == (1, "") and "nothing was signed" in ran.err
    assert not Path(f"{file}.approval").exists()


def test_without_a_terminal_a_confirmation_is_needed(run: Run, file: Path, key: Path) -> None:
    ran = run("rollover", "approve", str(file), "--key", str(key), "--reason", REASON, stdin="y\n")
    assert (ran.code, ran.out) == (2, "") and "--yes" in ran.err and DIGEST in ran.err
    assert not Path(f"{file}.approval").exists()


def test_a_plan_that_drops_a_gate_is_not_approved(run: Run, file: Path, key: Path) -> None:
    file.write_bytes(file.read_bytes().replace(b'"A:client1",', b"", 1))
    ran = approving(run, file, key)
    assert ran.code == 4 and "C:server: does not wait for A:client1" in ran.err
    assert not Path(f"{file}.approval").exists()


def test_a_plan_from_standard_input_needs_a_name_for_its_approval(run: Run, file: Path, key: Path) -> None:
    text = file.read_text()
    words = ("rollover", "approve", "-", "--key", str(key), "--reason", REASON, "--yes")
    ran = run(*words, stdin=text)
    assert ran.code == 2 and "--output" in ran.err
    assert run(*words, "--output", "a", stdin=text).code == 0
    assert showing(run, file, Path("a"), "--operator-key", public(key)).code == 0


def test_an_approval_is_not_overwritten(run: Run, file: Path, key: Path, approved: Path) -> None:
    before = approved.read_text()
    ran = approving(run, file, key, reason="another")
    assert ran.code == 1 and "exists and is not overwritten" in ran.err
    assert approved.read_text() == before
    ran = approving(run, file, key, "--output", "no/where")
    assert ran.code == 1 and "there is no directory" in ran.err


@pytest.mark.parametrize("reason", ["", " ", "two\nlines", "x" * 201, "\x1b[2J"])
def test_a_reason_is_one_printable_line(run: Run, file: Path, key: Path, reason: str) -> None:
    ran = approving(run, file, key, reason=reason)
    assert ran.code == 2 and "--reason: give one printable line" in ran.err and "\x1b" not in ran.err


def test_a_deadline_that_has_passed_is_told(
    run: Run, file: Path, key: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "deadline has passed" not in approving(run, file, key).err
    later = SimpleNamespace(now=lambda zone: PLAN.topology.authority.ends)
    monkeypatch.setattr(approve, "datetime", later)
    assert "deadline has passed" in approving(run, file, key, "--output", "b").err


# --- keys ---


def test_the_key_is_by_default_the_identity_of_the_profile(run: Run, file: Path, key: Path) -> None:
    words = ("rollover", "approve", str(file), "--reason", REASON, "--yes")
    ran = run(*words)
    assert ran.code == 2 and "no SSH key is named" in ran.err and "--key" in ran.err
    write_profile(Path("p"), key)
    assert run(*words, "--profile", "p").code == 0
    assert showing(run, file, Path(f"{file}.approval"), "--profile", "p").code == 0


def test_keys_that_cannot_sign_are_refused(run: Run, file: Path, home: Path) -> None:
    other = ec.generate_private_key(ec.SECP256R1())
    path = home / "p256"
    path.write_bytes(other.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption()))
    Path(public(path)).write_bytes(other.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH))
    for each in (path, Path(public(path))):
        ran = approving(run, file, each)
        assert ran.code == 2 and f"{each} is not an Ed25519 SSH key" in ran.err and "--key" in ran.err
    path.write_text("-----BEGIN OPENSSH PRIVATE KEY-----\nAAAA\n-----END OPENSSH PRIVATE KEY-----\n")
    assert "is not an Ed25519 SSH key" in approving(run, file, path).err
    path.write_text("hello\n")
    assert "is not an OpenSSH public key" in approving(run, file, path).err
    ran = approving(run, file, home / "none")
    assert ran.code == 2 and "cannot be read" in ran.err and "--key" in ran.err


def test_a_key_with_a_passphrase_signs_in_the_agent(
    run: Run, file: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    locked = home / "locked"
    made = [program("ssh-keygen"), "-q", "-t", "ed25519", "-N", "a secret", "-f", str(locked)]
    subprocess.run(made, check=True, timeout=20)
    monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)
    ran = approving(run, file, locked)
    assert ran.code == 1 and f"{locked} has a passphrase" in ran.err and "there is no ssh-agent" in ran.err
    with OneKeyAgent(node_key("eve"), "eve") as agent:
        monkeypatch.setenv("SSH_AUTH_SOCK", str(agent.path))
        ran = approving(run, file, locked)
        assert ran.code == 1 and "does not hold the key" in ran.err and "ssh-add" in ran.err
    half = Path(public(locked))
    line = half.read_text()
    half.unlink()
    ran = approving(run, file, locked)
    assert ran.code == 2 and f"ssh-keygen -y -f {locked}" in ran.err
    half.write_text(line)
    opened = [program("ssh-keygen"), "-q", "-p", "-P", "a secret", "-N", "", "-f", str(locked)]
    subprocess.run([program("cp"), str(locked), "copy"], check=True, timeout=20)
    subprocess.run(opened, check=True, timeout=20, stdout=subprocess.DEVNULL)
    with OneKeyAgent(ssh_keys.signing_key(locked), "ann") as agent:
        monkeypatch.setenv("SSH_AUTH_SOCK", str(agent.path))
        Path("copy").replace(locked)
        for named in (locked, half):
            ran = approving(run, file, named, "--output", f"{named.name}.approval")
            assert ran.code == 0, ran.err
            assert showing(run, file, Path(f"{named.name}.approval"), "--operator-key", line).code == 0


# --- showing ---


def test_a_plan_that_was_swapped_behind_its_approval_is_refused(run: Run, home: Path, key: Path) -> None:
    shown = topology(chain(3))
    for name, order in (("fleet.plan", Order.SPLIT), ("other.plan", Order.BUNDLED)):
        (home / name).write_bytes(plan_document.encode(plan(shown, order)))
    assert approving(run, home / "fleet.plan", key).code == 0
    Path("other.plan").replace("fleet.plan")
    ran = showing(run, home / "fleet.plan", home / "fleet.plan.approval", "--operator-key", public(key))
    assert (ran.code, ran.out) == (4, "") and "it approves another plan" in ran.err
    words = ("--operator-key", public(key), "--json")
    ran = showing(run, home / "fleet.plan", home / "fleet.plan.approval", *words)
    assert json.loads(ran.out)["error"]["exit_code"] == 4


def test_an_approval_that_was_altered_is_refused(run: Run, file: Path, key: Path, approved: Path) -> None:
    approved.write_text(approved.read_text().replace("4711", "4712"))
    ran = showing(run, file, approved, "--operator-key", public(key))
    assert (ran.code, ran.out) == (4, "") and f"{approved}: it was altered after it was signed" in ran.err
    approved.write_text("hello")
    assert showing(run, file, approved, "--operator-key", public(key)).code == 4


def test_an_approval_by_another_key_is_refused(run: Run, file: Path, home: Path, approved: Path) -> None:
    other = ssh_keys.make(home / "other", "eve").line
    ran = showing(run, file, approved, "--operator-key", other)
    assert (ran.code, ran.out) == (4, "") and "none of the operators' keys signed it" in ran.err
    write_profile(Path("p"), home / "other")
    assert showing(run, file, approved, "--profile", "p").code == 4


def test_operators_are_those_of_the_profile_and_oneself(
    run: Run, file: Path, home: Path, key: Path, approved: Path
) -> None:
    ssh_keys.make(home / "other", "eve")
    line = ssh_keys.read(Path(public(key))).line
    write_profile(Path("p"), home / "other", line)
    assert showing(run, file, approved, "--profile", "p").code == 0
    other = ssh_keys.read(home / "other.pub").line
    assert showing(run, file, approved, "--profile", "p", "--operator-key", other).code == 4
    assert operator_verifier(line) in approve_operators(Path("p"))


def test_without_operators_nothing_is_verified(run: Run, file: Path, approved: Path) -> None:
    ran = showing(run, file, approved)
    assert ran.code == 2 and "no operator's key is known" in ran.err and "--operator-key" in ran.err


def test_options_that_do_not_fit_are_refused(run: Run, file: Path, key: Path, approved: Path) -> None:
    ran = run("rollover", "show", str(file), "--operator-key", public(key))
    assert ran.code == 2 and "--approval" in ran.err
    p256 = ec.generate_private_key(ec.SECP256R1()).public_key()
    line = p256.public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()
    ran = showing(run, file, approved, "--operator-key", line)
    assert ran.code == 2 and "--operator-key: an operator's key is an OpenSSH Ed25519" in ran.err
    write_profile(Path("p"), key, line)
    ran = showing(run, file, approved, "--profile", "p")
    assert ran.code == 2 and "p: operator_keys: " in ran.err
    ran = showing(run, file, Path("none"), "--operator-key", public(key))
    assert ran.code == 2 and "none cannot be read" in ran.err


def approve_operators(profile: Path) -> list[object]:
    from hsmd.cli.rollover import approvals

    return list(approvals.operators([], profile))


def write_profile(path: Path, identity: Path, *operators: str) -> None:
    path.write_text(
        profiles.render(Profile("192.0.2.1:7440", "ann", identity, ("line",), operator_keys=operators))
    )
