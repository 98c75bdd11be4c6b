"""`hsmd init`: the files it creates, their modes, and that it never changes existing ones."""

from __future__ import annotations

import json
import os
import re
import stat
import tomllib
from pathlib import Path

import pytest

from hsmd.cli.base import daemon_users, ssh_keys, system_users
from hsmd.daemon.config import reader as configuration
from hsmd.daemon.store import Store
from hsmd.protocol.roles import Role
from tests.support.cli import Run

AS_TESTED = ("--no-token-test", *(("--run-as-root",) if os.geteuid() == 0 else ()))
"""No token is there, and root gives the daemon no users of its own."""


@pytest.fixture
def token(home: Path) -> list[str]:
    """Options that name a token; init does not access it."""
    (home / "module.so").touch()
    (home / "pin").write_text("1234\n")
    (home / "pin").chmod(0o600)
    return ["--module", "module.so", "--token-label", "tls", "--pin-file", "pin", *AS_TESTED]


def _mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def _tree(home: Path) -> dict[str, bytes | None]:
    """All files with their content, and all directories."""
    return {str(path): path.read_bytes() if path.is_file() else None for path in home.rglob("*")}


def test_init_writes_a_configuration_the_daemon_accepts(run: Run, home: Path, token: list[str]) -> None:
    ran = run("init", "--config", "etc/hsmd.toml", "--state", "var", "--listen", "192.0.2.1:7000", *token)
    assert ran.code == 0, ran.err
    config = configuration.load(home / "etc" / "hsmd.toml")
    assert [str(address) for address in config.listen.addresses] == ["192.0.2.1:7000"]
    assert config.listen.host_key == home / "etc" / "host_ed25519"
    assert config.audit.directory == home / "var" / "audit"
    assert config.tokens[0].settings.label == "tls"
    assert config.tokens[0].settings.pin_file == str(home / "pin")


def test_a_token_is_chosen_by_its_serial_number(run: Run, home: Path, token: list[str]) -> None:
    by_serial = ["--token-serial" if each == "--token-label" else each for each in token]
    assert run("init", *token, "--token-serial", "08a1").code == 2
    assert run("init", *by_serial).code == 0
    settings = configuration.load(home / "hsmd.toml").tokens[0].settings
    assert (settings.serial, settings.label) == ("tls", "")


def test_commented_settings_are_the_defaults(run: Run, home: Path, token: list[str]) -> None:
    run("init", *token)
    text = (home / "hsmd.toml").read_text()
    shown = configuration.load(home / "hsmd.toml")
    lines = [
        line.removeprefix("#") if line.startswith("#") and not line.startswith("# ") else line
        for line in text.splitlines()
    ]
    skipped = ("pin_credential", "host_certificate", "front =", 'workers = "')
    everything = "\n".join(line for line in lines if not line.startswith(skipped))
    assert configuration.parse(everything, shown.path) == shown


def test_files_have_their_modes(run: Run, home: Path, token: list[str]) -> None:
    assert run("init", "--state", "state", *token).code == 0
    mine = home / ".config" / "hsmd"
    for path in (
        home / "hsmd.toml",
        home / "host_ed25519",
        mine / "operator_ed25519",
        mine / "operator.toml",
    ):
        assert _mode(path) == 0o600, path
    assert _mode(home / "state" / "hsmd.sqlite") & 0o077 == 0
    assert _mode(home / "state") == 0o700
    assert _mode(mine) == 0o700


def test_the_store_holds_the_first_operator_with_the_key_of_the_profile(
    run: Run, home: Path, token: list[str]
) -> None:
    run("init", "--operator", "alice", *token)
    profile = tomllib.loads((home / ".config" / "hsmd" / "operator.toml").read_text())
    assert profile["user"] == "alice"
    assert profile["host_keys"] == [ssh_keys.read(home / "host_ed25519.pub").line]
    public = ssh_keys.read(home / ".config" / "hsmd" / f"{profile['identity']}.pub")
    store = Store(f"sqlite:///{home / 'hsmd.sqlite'}")
    [client] = store.load().clients
    store.close()
    assert (client.name, client.roles) == ("alice", {Role.OPERATOR})
    assert [credential.fingerprint for credential in client.credentials] == [public.fingerprint]


def test_an_operator_on_another_host_is_added_by_public_key(run: Run, home: Path, token: list[str]) -> None:
    key = ssh_keys.make(home / "id", "alice")
    ran = run("init", "--operator", "alice", "--operator-key", "id.pub", "--json", *token)
    document = json.loads(ran.out)
    assert document["profile"] is None
    assert document["operator_key_fingerprint"] == key.fingerprint
    assert not (home / ".config").exists()


def test_next_steps_enrol_front_ends_and_fit_the_options(run: Run, home: Path, token: list[str]) -> None:
    steps = run("init", "--profile", "fra.toml", *token).err
    assert f"hsmd serve --config {home}/hsmd.toml" in steps
    for line in ("hsmd status", "hsmd key generate www", "hsmd client enroll web1 --grant www"):
        assert f"{line} --profile {home}/fra.toml" in steps
    assert "hsmd agent init --enroll -" in steps
    assert "--host-key" not in steps


def test_next_steps_of_an_operator_elsewhere_pin_the_host_key(run: Run, home: Path, token: list[str]) -> None:
    ssh_keys.make(home / "id", "alice")
    steps = run("init", "--operator", "alice", "--operator-key", "id.pub", *token).err
    line = ssh_keys.read(home / "host_ed25519.pub").line
    assert f"hsmd status --daemon 127.0.0.1:7440 --user alice --identity KEY --host-key '{line}'" in steps
    assert "on the computer of alice" in steps


def test_next_steps_start_the_service_that_was_written(run: Run, home: Path, token: list[str]) -> None:
    (home / "units").mkdir()
    steps = run("init", "--systemd", "units", *token).err
    assert "systemctl daemon-reload && systemctl enable --now hsmd" in steps
    assert "hsmd serve" not in steps


@pytest.mark.parametrize(
    "existing",
    [
        "hsmd.toml",
        "host_ed25519",
        "hsmd.sqlite",
        "audit",
        ".config/hsmd/operator.toml",
        ".config/hsmd/operator_ed25519",
    ],
)
def test_nothing_is_overwritten(run: Run, home: Path, token: list[str], existing: str) -> None:
    (home / existing).parent.mkdir(parents=True, exist_ok=True)
    (home / existing).write_text("mine")
    before = _tree(home)
    ran = run("init", *token)
    assert ran.code == 1
    assert existing in ran.err
    assert _tree(home) == before


def test_a_failure_half_way_leaves_nothing(
    run: Run, home: Path, token: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(self: Store, *_: object) -> None:
        raise OSError(28, "No space left on device")

    before = _tree(home)
    monkeypatch.setattr(Store, "write", fail)
    ran = run("init", "--config", "etc/hsmd/hsmd.toml", "--state", "var/lib/hsmd", *token)
    assert (ran.code, "No space left" in ran.err) == (1, True)
    assert _tree(home) == before


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (["--listen", "0.0.0.0:7440"], "every network"),
        (["--listen", "hsm.example:7440"], "literal IP address"),
        (["--listen", "::1:7440"], "write [::1]:7440"),
        (["--listen", "127.0.0.1:0"], "a port from 1 to 65535"),
        (["--operator", "no spaces please"], "name"),
        (["--module", "nowhere.so"], "nowhere.so"),
        (["--operator-key", "ssh-ed25519 AAAA"], "public key"),
        (["--environment", "SOFTHSM2_CONF"], "NAME=VALUE"),
    ],
)
def test_wrong_options_change_nothing(
    run: Run, home: Path, token: list[str], options: list[str], complaint: str
) -> None:
    before = _tree(home)
    ran = run("init", *token, *options)
    assert ran.code in (1, 2)
    assert complaint in ran.err
    assert ran.err.count("\n") == 1
    assert _tree(home) == before


def test_without_a_token_init_says_how_to_make_one(run: Run) -> None:
    ran = run("init")
    assert ran.code == 2
    assert "hsmd init --softhsm" in ran.err


@pytest.mark.parametrize(
    ("content", "reason"),
    [(b"", "is empty"), (b"\xef\xbb\xbf1234", "byte order mark"), (b"12\n34\n", "more than one line")],
)
def test_a_pin_file_that_workers_would_refuse_is_refused(
    run: Run, home: Path, token: list[str], content: bytes, reason: str
) -> None:
    (home / "pin").write_bytes(content)
    ran = run("init", *token)
    assert ran.code == 2
    assert "--pin-file: pin: " in ran.err and reason in ran.err
    assert "write the PIN alone" in ran.err
    assert not (home / "hsmd.toml").exists()


def test_a_pin_file_readable_by_other_users_is_refused(run: Run, home: Path, token: list[str]) -> None:
    (home / "pin").chmod(0o644)
    ran = run("init", *token)
    assert (ran.code, "chmod 600" in ran.err) == (2, True)


def test_softhsm_makes_the_token_that_the_configuration_names(run: Run, home: Path) -> None:
    ran = run("init", "--softhsm", "--json")
    assert ran.code == 0, ran.err
    [token] = configuration.load(home / "hsmd.toml").tokens
    assert token.environment["SOFTHSM2_CONF"] == str(home / "softhsm" / "softhsm2.conf")
    assert _mode(Path(token.settings.pin_file)) == 0o600
    assert run("init", "--softhsm", "--config", "other/hsmd.toml", "--state", ".").code == 1


def test_the_environment_of_the_module_is_written(run: Run, home: Path, token: list[str]) -> None:
    ran = run("init", "--environment", "CONF=/etc/vendor=1.conf", "--environment", "DEBUG=", *token)
    assert ran.code == 0, ran.err
    assert configuration.load(home / "hsmd.toml").tokens[0].environment == {
        "CONF": "/etc/vendor=1.conf",
        "DEBUG": "",
    }


# --- users ---

HARDWARE = ("--module", "module.so", "--token-label", "tls", "--pin-file", "pin", "--no-token-test")


@pytest.fixture
def created(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, ...]]:
    """The programs that were run to create users, which are not created."""
    ran: list[tuple[str, ...]] = []
    monkeypatch.setattr(system_users, "_run", lambda *arguments: ran.append(arguments))
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    return ran


def test_root_is_told_how_to_separate_users(
    run: Run, home: Path, token: list[str], created: list[tuple[str, ...]]
) -> None:
    before = _tree(home)
    ran = run("init", "--front-user", "no-such-user-here", *HARDWARE)
    assert ran.code == 2
    assert "no user no-such-user-here" in ran.err and "--create-users" in ran.err
    assert (_tree(home), created) == (before, [])


def test_users_are_created_when_asked_for_and_removed_if_a_later_step_fails(
    run: Run, home: Path, token: list[str], created: list[tuple[str, ...]]
) -> None:
    before = _tree(home)
    ran = run("init", "--create-users", "--front-user", "no-such-1", "--worker-user", "no-such-2", *HARDWARE)
    assert ran.code == 2  # they were not created
    assert [(command[0], command[-1]) for command in created] == [
        ("useradd", "no-such-1"), ("useradd", "no-such-2"), ("userdel", "no-such-2"), ("userdel", "no-such-1"),
    ]  # fmt: skip
    assert _tree(home) == before


def test_users_that_exist_are_used(
    run: Run, home: Path, token: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(os, "chown", lambda *_, **__: None)
    monkeypatch.setattr(daemon_users, "FRONT_USER", "nobody")
    monkeypatch.setattr(daemon_users, "WORKER_USER", "daemon")
    ran = run("init", *HARDWARE)
    assert ran.code == 0, ran.err
    users = configuration.load(home / "hsmd.toml").users
    assert (users.front, users.workers) == ("nobody", "daemon")
    assert "hsmd systemd install --config" in ran.err
    assert "Warning" not in ran.err


def test_one_user_for_both_is_refused(run: Run, home: Path, token: list[str], created: object) -> None:
    ran = run("init", "--front-user", "nobody", "--worker-user", "nobody", *HARDWARE)
    assert (ran.code, "could read the PIN" in ran.err) == (2, True)


def test_all_processes_run_as_root_only_on_request_and_with_a_warning(
    run: Run, home: Path, token: list[str], created: object
) -> None:
    ran = run("init", "--run-as-root", *HARDWARE)
    assert ran.code == 0, ran.err
    assert "Warning: front process and workers will run as root" in ran.err
    assert configuration.load(home / "hsmd.toml").users.front == ""


# --- a further daemon ---


@pytest.fixture
def first(run: Run, home: Path, token: list[str], monkeypatch: pytest.MonkeyPatch) -> Path:
    """The configuration of a daemon whose store is shared."""
    ran = run(
        "init",
        "--config",
        "first/hsmd.toml",
        "--environment",
        "CONF=/etc/vendor.conf",
        "--profile",
        "op.toml",
        *token,
    )
    assert ran.code == 0, ran.err
    file = home / "first" / "hsmd.toml"
    url = re.search(r"sqlite:[^\"]*", file.read_text())
    assert url is not None
    file.write_text(
        file.read_text()
        .replace(url[0], "postgresql+psycopg://hsmd:secret@192.0.2.9/hsmd")
        .replace('name = "token"', 'name = "main"')
    )
    monkeypatch.setattr(Store, "needs_upgrade", lambda self: False)
    return file


def test_a_further_daemon_takes_store_and_token_from_the_first(run: Run, home: Path, first: Path) -> None:
    ran = run(
        "init", "--config", "second/hsmd.toml", "--listen", "192.0.2.3:7440", "--name", "second", "--like", str(first),
        "--pin-file", "pin", *AS_TESTED,
    )  # fmt: skip
    assert ran.code == 0, ran.err
    before, made = configuration.load(first), configuration.load(home / "second" / "hsmd.toml")
    assert (made.store_url, made.name) == (before.store_url, "second")
    assert made.tokens[0].settings == before.tokens[0].settings
    assert made.tokens[0].environment == before.tokens[0].environment
    assert made.listen.host_key != before.listen.host_key
    assert not list((home / "second").glob("*.sqlite"))
    assert not (home / ".config").exists(), "its operators are in the store"
    line = ssh_keys.read(home / "second" / "host_ed25519.pub").line
    assert f"hsmd agent daemon add 192.0.2.3:7440 --host-key '{line}'" in ran.err
    assert "secret" not in ran.err + ran.out


def test_a_store_on_another_host_cannot_be_shared(run: Run, home: Path, token: list[str]) -> None:
    assert run("init", "--config", "first/hsmd.toml", "--profile", "op.toml", *token).code == 0
    ran = run("init", "--config", "second/hsmd.toml", "--like", "first/hsmd.toml", *token)
    assert (ran.code, "is SQLite, which only the daemon of that host can use" in ran.err) == (2, True)
    assert not (home / "second").exists()
