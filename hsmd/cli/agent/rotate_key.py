"""`hsmd agent rotate-key`: a new key for the agent, registered by the old one. It can be run again after a crash at any step.

The next key waits in a file beside the one in use. Every daemon accepts it before it takes the place of the old one, and the old
one is given up only over connections made with the new.
"""

from __future__ import annotations

import errno
import os
import stat
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_ssh_private_key

from hsmd.cli.agent.options import Config, app, default_config
from hsmd.cli.base import ssh_keys
from hsmd.cli.base.commands import command
from hsmd.cli.base.errors import CommandError, Exit
from hsmd.cli.base.files import PUBLIC
from hsmd.cli.base.output import Output
from hsmd.protocol.messages import ClientRotateKey, WhoAmI
from hsmd.system import atomic_file

if TYPE_CHECKING:
    from hsmd.client import Endpoint

ASK_S = 15.0


@command(app, "rotate-key", example="hsmd agent rotate-key --config /etc/hsmd/agent.toml")
def rotate_key(output: Output, config: Config = None) -> None:
    """Give the agent a new key in the place of the one it has.

    Every daemon of the configuration must be up. The agent goes on running; its connections are made anew with the new key.
    Run it again if it was interrupted.
    """
    from hsmd.agent.config import load
    from hsmd.errors import HsmdError

    daemons = load((config or default_config()).absolute()).daemons
    if daemons[0].certificate_file is not None:
        raise CommandError(
            "this agent comes with a certificate", "have the CA issue one for a new key", Exit.USAGE
        )
    identity = daemons[0].identity_file
    following = identity.with_name(identity.name + ".next")
    try:
        _rotate(daemons, identity, following)
    except HsmdError as error:
        raise CommandError(
            error.text, "when that is mended run it again: it goes on where it stopped"
        ) from None
    key = ssh_keys.read(ssh_keys.public_file(identity))
    output.show({"public_key": key.line}, lambda: f"The agent's key is {key.fingerprint} now.")


def _rotate(daemons: tuple[Endpoint, ...], identity: Path, following: Path) -> None:
    if not os.path.lexists(following):
        for daemon in daemons:
            _ask(daemon, ClientRotateKey())  # what an interrupted run left to be done
        ssh_keys.public_file(following).unlink(missing_ok=True)
        ssh_keys.make(following, "hsmd agent")
        atomic_file.sync_directory(
            following.parent
        )  # a key that the daemon knows and we have no more would be in the way of every other
    _own_like(identity, following)
    line = _public_line(following)
    for daemon in daemons:
        _ask(daemon, ClientRotateKey(public_key=line))
    for daemon in daemons:
        _ask(replace(daemon, identity_file=following), WhoAmI())
    os.replace(following, identity)
    atomic_file.sync_directory(
        identity.parent
    )  # before the old one is given up: after a power failure it must not be the one we have
    atomic_file.replace(ssh_keys.public_file(identity), f"{line} hsmd agent\n", PUBLIC)
    ssh_keys.public_file(following).unlink(missing_ok=True)
    for daemon in daemons:
        _ask(daemon, ClientRotateKey())


def _ask(daemon: Endpoint, request: ClientRotateKey | WhoAmI) -> None:
    from hsmd.client import Client

    with Client.connect(daemon) as client:
        client.control(request, timeout_s=ASK_S)


def _public_line(private_file: Path) -> str:
    """From the private key: after a crash its .pub file may not be there."""
    key = load_ssh_private_key(private_file.read_bytes(), password=None)
    return key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()


def _own_like(old: Path, new: Path) -> None:
    """The new key is the agent's as the old one is. Raises CommandError for what is no file of its own.

    The directory may be the agent's too: a link that it put there must not have root give away what the link leads to.
    """
    status = old.stat()
    try:
        descriptor = os.open(new, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise _not_a_key(new) if error.errno == errno.ELOOP else error from None
    try:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode) or found.st_nlink != 1:
            raise _not_a_key(new)
        if os.geteuid() == 0:
            os.fchown(descriptor, status.st_uid, status.st_gid)
    finally:
        os.close(descriptor)


def _not_a_key(path: Path) -> CommandError:
    return CommandError(
        f"{path} is a link, or no file", "find out who put it there, remove it, and run this again"
    )
