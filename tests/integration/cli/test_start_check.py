"""`hsmd init` tries token and PIN before it writes anything; `hsmd serve --check` says whether the daemon could start."""

from __future__ import annotations

import json
import os
import re
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from hsmd.daemon.launcher import start_check
from hsmd.daemon.store import Store
from hsmd.pkcs11.softhsm import SoftHsmToken, make_token
from tests.support.daemon import Daemon
from tests.support.fault_module.control import FaultModule, FaultyToken, Function
from tests.support.processes import hsmd, run

AS_ROOT = ("--run-as-root",) if os.geteuid() == 0 else ()


@pytest.fixture
def token(tmp_path: Path, fault_module: FaultModule) -> SoftHsmToken:
    """A token that counts logins; it locks its PIN after three wrong ones."""
    fault_module.lock_pin_after(3)
    return fault_module.before(make_token(tmp_path / "token"))


def init(directory: Path, token: SoftHsmToken, *more: str) -> tuple[int, str]:
    """Exit code and messages of `hsmd init`."""
    assert isinstance(token, FaultyToken)
    variables = [f"--environment={name}={value}" for name, value in token.environment.items()]
    done = run(
        hsmd(
            "init", "--config", directory / "etc/hsmd.toml", "--state", directory / "var", "--module", token.module,
            "--token-label", token.label, "--pin-file", token.pin_file, "--profile", directory / "me/operator.toml",
            *variables, *AS_ROOT, *more,
        )
    )  # fmt: skip
    return done.returncode, done.stderr


def logins(module: FaultModule) -> int:
    return len(module.calls(Function.LOGIN))


def test_init_tries_a_wrong_pin_once_and_leaves_nothing(
    tmp_path: Path, fault_module: FaultModule, token: SoftHsmToken
) -> None:
    right = token.pin_file.read_text()
    token.pin_file.write_text("wrong\n")
    site = tmp_path / "site"
    code, text = init(site, token)
    assert code == 1
    assert "the token refused the PIN" in text and "nothing was written" in text
    assert (fault_module.wrong_logins, site.exists()) == (1, False)
    code, text = init(site, token)
    assert "is still the one that was refused, and was not tried again" in text
    assert (fault_module.wrong_logins, site.exists()) == (1, False)
    token.pin_file.write_text(right)
    code, text = init(site, token)
    assert (code, fault_module.wrong_logins) == (0, 1), text
    assert (site / "etc/hsmd.toml").exists()


def test_init_names_the_fault_of_module_and_token(
    tmp_path: Path, fault_module: FaultModule, token: SoftHsmToken
) -> None:
    code, text = init(tmp_path / "site", token, "--token-label", "nosuch")
    assert (code, "no token has label 'nosuch'; it shows 'hsmd'" in text) == (1, True)
    assert logins(fault_module) == 0
    assert init(tmp_path / "site", token, "--no-token-test", "--token-label", "nosuch")[0] == 0


@pytest.fixture
def built(tmp_path: Path, fault_module: FaultModule) -> Iterator[Daemon]:
    """A daemon that does not run."""
    made = Daemon(tmp_path / "daemon", before=fault_module.before)
    made.config.write_text(made.config.read_text().replace("127.0.0.1:0", f"127.0.0.1:{free_port()}"))
    yield made
    made.end()


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
        return port


def check(config: Path, *options: str) -> tuple[int, dict[str, str]]:
    """Exit code, and the text of each subject, with what to do about problems."""
    done = run(hsmd("serve", "--check", "--config", config, "--json", *options))
    document = json.loads(done.stdout)
    return done.returncode, {
        each["subject"]: each["text"] if each["ok"] else f"PROBLEM {each['text']} - {each['mend']}"
        for each in document.get("findings", [])
    }


def test_a_good_configuration_passes_and_no_pin_is_tried(built: Daemon, fault_module: FaultModule) -> None:
    code, found = check(built.config)
    assert code == 0, found
    assert {
        "configuration",
        "host key",
        "store",
        "audit log",
        "token main",
        "PIN of token main",
    } <= found.keys()
    assert logins(fault_module) == 0
    code, found = check(built.config, "--login")
    assert (code, logins(fault_module)) == (0, 1)
    assert "accepts the PIN" in found["token main"]
    code, found = check(built.config, "--without-tokens")
    assert (code, "token main" in found) == (0, False)


def test_a_credential_of_the_service_is_checked_in_its_file(built: Daemon) -> None:
    """Outside of the service systemd passes none, but its unit names the file."""
    built.config.write_text(re.sub(r'pin_file = ".*"', 'pin_credential = "pin"', built.config.read_text()))
    code, found = check(built.config)
    assert (code, "passed no credentials" in found["PIN of token main"]) == (4, True)
    results = start_check.check(
        built.config, tokens=True, login=False, credentials={"pin": built.pin_file, "other": Path("/none")}
    )
    assert all(each.ok for each in results), results
    assert str(built.pin_file) in next(each.text for each in results if each.subject == "PIN of token main")


def test_root_checks_no_daemon_that_another_user_runs(built: Daemon, fault_module: FaultModule) -> None:
    """The module would run as root, and leave files that the daemon cannot use."""
    if os.geteuid() == 0:
        os.chown(built.directory / "host_key", 1, 1)
    code, found = check(built.config, "--login")
    refused = "PROBLEM the host key belongs to daemon" in found.get("users", "")
    assert (refused, code, logins(fault_module)) == ((True, 4, 0) if os.geteuid() == 0 else (False, 0, 1))


def test_each_problem_is_found_with_what_to_do(built: Daemon, fault_module: FaultModule) -> None:
    """All in one run, as an operator would meet them on a new host."""
    text = built.config.read_text()
    text = re.sub(r"addresses = .*", 'addresses = ["192.0.2.7:7440"]', text)
    text = re.sub(r'directory = "audit"', 'directory = "none/audit"', text)
    built.config.write_text(text.replace('label = "hsmd"', 'label = "nosuch"'))
    (built.directory / "host_key").write_text("no key")
    built.pin_file.write_text("")
    Store(built.store_url).close()
    (built.directory / "store.sqlite").write_bytes(b"not a database" * 100)
    code, found = check(built.config)
    assert code == 4
    assert "this host has no such address" in found["address 192.0.2.7:7440"]
    assert "does not exist" in found["audit log"]
    assert "cannot be used" in found["host key"] and "ssh-keygen" in found["host key"]
    assert "no token has label 'nosuch'" in found["token main"]
    assert "is empty" in found["PIN of token main"]
    assert found["store"].startswith("PROBLEM")
    assert logins(fault_module) == 0


def test_an_address_in_use_is_a_problem_unless_by_hsmd(built: Daemon) -> None:
    port = re.search(r"127\.0\.0\.1:(\d+)", built.config.read_text())
    assert port is not None
    with socket.socket() as other:
        other.bind(("127.0.0.1", int(port[1])))
        other.listen()
        code, found = check(built.config, "--without-tokens")
    assert (code, "another program listens there" in found[f"address 127.0.0.1:{port[1]}"]) == (4, True)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.settimeout(20)
        manager.bind(str(built.directory / "notify"))
        built.environment["NOTIFY_SOCKET"] = str(built.directory / "notify")
        built.start()
        assert manager.recv(1000).decode() == f"READY=1\nSTATUS=serving at 127.0.0.1:{port[1]}"
        code, found = check(built.config, "--without-tokens")
        assert (code, found[f"address 127.0.0.1:{port[1]}"]) == (0, "in use by a running hsmd daemon")
        good = built.config.read_text()
        built.config.write_text(f"nonsense = 1\n{good}")
        assert built.reload() == "refused"
        assert manager.recv(1000).decode().startswith("STATUS=reload refused: nonsense: ")
        built.config.write_text(good)
        assert built.reload() == "done"
        assert manager.recv(1000).decode() == f"STATUS=serving at 127.0.0.1:{port[1]}"


def test_a_wrong_file_is_exit_code_2(built: Daemon) -> None:
    built.config.write_text(built.config.read_text() + "\nnonsense = 1\n")
    assert check(built.config)[0] == 2
