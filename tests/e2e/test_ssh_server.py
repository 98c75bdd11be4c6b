"""An SSH server of the host asks the vault: `AuthorizedKeysCommand ... hsmd vault authorized-keys %u %t %k`.

The command is run by sshd with its own environment and as a user of its own, who can read the checker's profile and SSH key
and write nowhere.
"""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

from hsmd.cli.base import profile as profiles
from hsmd.cli.base.profile import Profile
from hsmd.client import Client
from hsmd.envelopes.vault.management_keys import WrappingSuite
from hsmd.holder import management_files, registration
from hsmd.holder.management_keys import Place, generate_pair, state
from hsmd.protocol import messages
from hsmd.protocol.messages import VaultConfirm
from tests.support.daemon import Daemon, running_daemon
from tests.support.holder import CHEAP
from tests.support.processes import ROOT, hsmd, run
from tests.support.sshd import LOGGED_IN, SshServer, ssh_server
from tests.support.users import give, interpreter_for_all
from tests.support.vault import add_client

CHECKER = "sshd-1"
WORD = "correct horse battery"


class Logins:
    """An owner with the name of the user who logs in, and a server whose checker the owner has allowed."""

    def __init__(self, daemon: Daemon, home: Path, server: SshServer) -> None:
        self.daemon = daemon
        self.home = home
        self.server = server

    def hsmd(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """A command of the owner's."""
        with (self.home / "word").open() as word:
            os.set_inheritable(word.fileno(), True)
            return subprocess.run(
                [*hsmd("vault", *arguments[:1], "--passphrase-fd", str(word.fileno())), *arguments[1:]],
                capture_output=True,
                text=True,
                timeout=60,
                pass_fds=[word.fileno()],
                env={**os.environ, "HOME": str(self.home), "PYTHONPATH": str(ROOT)},
                cwd=self.home,
                check=False,
            )

    def done(self, *arguments: str) -> None:
        ran = self.hsmd(*arguments)
        assert ran.returncode == 0, ran.stderr

    def logs_in_with_agent(self, record: str) -> bool:
        """Whether the server accepts the key of a record, which is used through `hsmd vault run`."""
        return self._accepted(self.hsmd("run", record, "--", *self.server.login()))

    def logs_in(self, key: Path) -> bool:
        """Whether the server accepts a key in a file."""
        return self._accepted(run(self.server.login("-i", key, "-o", "IdentitiesOnly=yes"), SSH_AUTH_SOCK=""))

    def _accepted(self, ran: subprocess.CompletedProcess[str]) -> bool:
        refused = ran.returncode == 255 and "Permission denied" in ran.stderr
        assert refused or (ran.returncode, ran.stdout.strip()) == (0, LOGGED_IN), (
            f"{ran.stdout}{ran.stderr}\n{self.server.log.read_text()[-3000:]}"
        )
        return not refused


@pytest.fixture(scope="module")
def logins(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Logins]:
    directory = tmp_path_factory.mktemp("ssh-server")
    account = pwd.getpwnam("nobody") if os.geteuid() == 0 else pwd.getpwuid(os.geteuid())
    with ExitStack() as undo:
        daemon = undo.enter_context(running_daemon(directory / "daemon"))
        owner = pwd.getpwuid(os.geteuid()).pw_name
        home = directory / "home"
        _enrol(daemon, owner, home)
        settings = Path(tempfile.mkdtemp(prefix="hsmd-sshd-"))  # pytest's are closed to other users
        undo.callback(shutil.rmtree, settings)
        settings.chmod(0o755)
        profile = _checker(daemon, settings, account)
        python = interpreter_for_all(settings, account.pw_uid)
        command = ["/usr/bin/env", f"PYTHONPATH={ROOT}", python, "-m", "hsmd.cli", "vault", "authorized-keys"]
        (directory / "server").mkdir()
        server = undo.enter_context(
            ssh_server(directory / "server", [*command, "--profile", str(profile)], account.pw_name)
        )
        made = Logins(daemon, home, server)
        made.done("allow", CHECKER)
        yield made


def _enrol(daemon: Daemon, owner: str, home: Path) -> None:
    """An owner with a profile and a confirmed management key."""
    add_client(daemon, owner, "owner")
    key = state(generate_pair(WrappingSuite.X25519), Place(owner), datetime.now(UTC))
    directory = home / ".config" / "hsmd"
    directory.mkdir(parents=True)
    (directory / "operator.toml").write_text(
        profiles.render(_profile(daemon, owner, daemon.directory / owner))
    )
    management_files.write_new(
        directory / "management-key", management_files.encrypted(key, WORD.encode(), CHEAP)
    )
    (home / "word").write_text(f"{WORD}\n")
    with Client.connect(daemon.endpoint(owner)) as client:
        daemon.ask(VaultConfirm(owner, registration.register(client, key).fingerprint))


def _checker(daemon: Daemon, directory: Path, account: pwd.struct_passwd) -> Path:
    """The checker's profile, which belongs to root, and its SSH key, which the user of the command can read."""
    add_client(daemon, CHECKER, "checker")
    identity = directory / "checker"
    shutil.copyfile(daemon.directory / CHECKER, identity)
    identity.chmod(0o600)
    if os.geteuid() == 0:
        give(account, identity)
    profile = directory / "checker.toml"
    keys: messages.StatementKeyList = daemon.ask(messages.StatementKeys())
    pinned = tuple(line for key in keys.keys for line in key.verifier_keys)
    profile.write_text(profiles.render(replace(_profile(daemon, CHECKER, identity), statement_keys=pinned)))
    return profile


def _profile(daemon: Daemon, client: str, identity: Path) -> Profile:
    host, port = daemon.address
    return Profile(f"{host}:{port}", client, identity, (daemon.notice["host_key"],))


def _for_openssh(key: Path) -> None:
    """Write a key in the form of OpenSSH, which reads no Ed25519 key as PKCS#8."""
    private: Any = load_pem_private_key(key.read_bytes(), None)
    key.write_bytes(private.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption()))


def test_a_key_in_the_vault_logs_in_until_it_is_used_up(logins: Logins) -> None:
    """A key that was taken out as often as its owner allows is refused, also while its last use goes on."""
    logins.done("generate", "laptop", "--type", "ed25519", "--max-uses", "2", "--mode", "deny")
    assert logins.logs_in_with_agent("laptop")
    assert not logins.logs_in_with_agent("laptop")


@pytest.mark.parametrize("key_type", ["ed25519", "p-256", "rsa-2048"])
def test_a_key_of_each_type_logs_in_until_it_is_suspended_or_revoked(logins: Logins, key_type: str) -> None:
    logins.done("generate", key_type, "--type", key_type)
    key = logins.home / f"{key_type}.pem"
    logins.done("get", key_type, "--output", str(key))
    _for_openssh(key)
    assert logins.logs_in(key)
    owner = logins.server.user
    with Client.connect(logins.daemon.endpoint(owner)) as client:
        client.control(messages.VaultSuspend(key_type, 1, "a test"))
    assert not logins.logs_in(key)
    logins.done("resume", key_type, "--version", "1")
    assert logins.logs_in(key)
    logins.done("revoke", key_type, "--version", "1")
    assert not logins.logs_in(key)


def test_a_key_that_is_not_in_the_vault_is_refused(logins: Logins, tmp_path: Path) -> None:
    key = tmp_path / "stranger"
    assert run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key]).returncode == 0
    assert not logins.logs_in(key)
