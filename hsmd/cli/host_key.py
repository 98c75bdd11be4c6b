"""`hsmd host-key`: a new SSH host key for a daemon, in steps between which all clients can connect."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hsmd.cli.base import host_key_pins, profile as profiles, ssh_keys
from hsmd.cli.base.commands import command, group
from hsmd.cli.base.daemon_users import Users
from hsmd.cli.base.errors import CommandError, Exit
from hsmd.cli.base.files import exists
from hsmd.cli.base.output import Output
from hsmd.cli.base.ssh_keys import PublicLine
from hsmd.system import atomic_file
from hsmd.system.places import acting_for, other_owner

if TYPE_CHECKING:
    from hsmd.daemon.config.settings import Config

app = group(
    """The SSH host key of a daemon.

    Agents and operators pin it. To replace it without downtime: 1. hsmd host-key new, on the key host; 2. hsmd host-key pin, on
    every front end and operator's computer; 3. hsmd host-key switch, on the key host; 4. hsmd host-key unpin, everywhere."""
)

ConfigFile = Annotated[
    Path, typer.Option("--config", "-c", metavar="FILE", help="Configuration file of the daemon.")
]
DEFAULT_CONFIG = Path("/etc/hsmd/hsmd.toml")
Key = Annotated[
    str, typer.Argument(metavar="LINE|FILE", help="Host key, an OpenSSH public key line.", show_default=False)
]
Files = Annotated[
    list[Path],
    typer.Option(
        "--file",
        metavar="FILE",
        help="agent.toml or operator.toml to change; may be repeated. Default: the agent's (for root) and your profile.",
    ),
]


@command(app, "new", example="hsmd host-key new\nhsmd host-key new --config /etc/hsmd/hsmd.toml > next.pub")
def new(output: Output, config: ConfigFile = DEFAULT_CONFIG) -> None:
    """Generate the next host key of a daemon, on the key host. The daemon does not use it yet."""
    settings = _load(config)
    current, following = _files(settings)
    with acting_for(following):
        before = ssh_keys.read(ssh_keys.public_file(current))
        made = ssh_keys.make(following, "hsmd host key")
    if other_owner(following) is None:
        Users.from_settings(settings.users.front, settings.users.workers).give_to_front(following)
    hints = f"""
Next, on each front end as root, and as each operator:
  hsmd host-key pin '{made.line}' --beside '{before.line}'
Then here: hsmd host-key switch --config {settings.path}
"""
    document = {"host_key": made.line, "host_key_fingerprint": made.fingerprint, "current": before.line}
    output.show(document, lambda: made.line, hints=hints)


@command(app, "switch", example="hsmd host-key switch --config /etc/hsmd/hsmd.toml")
def switch(output: Output, config: ConfigFile = DEFAULT_CONFIG) -> None:
    """Put the next host key in the place of the current one, which is kept beside it.

    The daemon uses it for new connections after `systemctl reload hsmd`. Clients that have not pinned it cannot connect then.
    """
    settings = _load(config)
    current, following = _files(settings)
    with acting_for(current):
        before, after, kept = _switch(current, following)
    hints = f"""
Next: systemctl reload hsmd
When all clients work, on each front end as root, and as each operator: hsmd host-key unpin '{before.line}'
and here: rm {kept} {ssh_keys.public_file(kept)}
"""
    document = {"host_key": after.line, "host_key_fingerprint": after.fingerprint, "before": before.line}
    output.show(
        document,
        lambda: f"The host key is now {after.fingerprint}; the one before is in {kept}.",
        hints=hints,
    )


@command(
    app,
    "pin",
    example="hsmd host-key pin 'ssh-ed25519 AAAAC3NzaNEXT...' --beside 'ssh-ed25519 AAAAC3NzaNOW...'",
)
def pin(
    output: Output,
    key: Key,
    beside: Annotated[
        str,
        typer.Option(
            "--beside", metavar="LINE|FILE", help="Host key that the daemon has now.", show_default=False
        ),
    ],
    file: Files = [],  # noqa: B006  read only
) -> None:
    """Accept a further host key wherever another one is accepted: in agent.toml, and in your profile."""
    line, old = ssh_keys.line_or_file(key), ssh_keys.line_or_file(beside)
    changed = [path for path in _pinning_files(file) if host_key_pins.pin_beside(path, old.line, line.line)]
    _report(output, changed, f"{line.fingerprint} is accepted")


@command(app, "unpin", example="hsmd host-key unpin 'ssh-ed25519 AAAAC3Nza...'")
def unpin(output: Output, key: Key, file: Files = []) -> None:  # noqa: B006  read only
    """Accept a host key no longer, in agent.toml and in your profile. One that is the only one is kept."""
    line = ssh_keys.line_or_file(key)
    changed = [path for path in _pinning_files(file) if host_key_pins.unpin(path, line.line)]
    _report(output, changed, f"{line.fingerprint} is not accepted")


def _switch(current: Path, following: Path) -> tuple[PublicLine, PublicLine, Path]:
    """Rename the files; return the public lines of before and after, and where the key of before is. Raises CommandError."""
    if not following.exists():
        raise CommandError(
            f"there is no next host key {following}", "make it first: hsmd host-key new", Exit.USAGE
        )
    kept = current.with_name(current.name + ".old")
    if kept.exists():
        raise exists(kept)
    before = ssh_keys.read(ssh_keys.public_file(current))
    after = ssh_keys.read(ssh_keys.public_file(following))
    os.link(current, kept)  # there is a host key at all times
    os.replace(following, current)
    os.replace(ssh_keys.public_file(current), ssh_keys.public_file(kept))
    os.replace(ssh_keys.public_file(following), ssh_keys.public_file(current))
    atomic_file.sync_directory(current.parent)
    return before, after, kept


def _report(output: Output, changed: list[Path], result: str) -> None:
    lines = [f"{path}: {result}" for path in changed] or [f"{result} already; nothing was changed"]
    reload = any(path.name == "agent.toml" for path in changed)
    output.show(
        {"changed": [str(path) for path in changed]},
        lambda: "\n".join(lines),
        hints="Next: systemctl reload hsmd-agent" if reload else "",
    )


def _pinning_files(given: list[Path]) -> list[Path]:
    """The files to change. Raises CommandError if there are none."""
    from hsmd.cli.agent.options import default_config

    found = given or [path for path in (default_config(), profiles.default_path()) if path.exists()]
    if not found:
        raise CommandError(
            f"there is neither {default_config()} nor {profiles.default_path()}",
            "name the file with --file",
            Exit.USAGE,
        )
    return found


def _load(config: Path) -> Config:
    from hsmd.daemon.config.reader import load

    return load(config.absolute())


def _files(config: Config) -> tuple[Path, Path]:
    """The current host key, and the place of the next one."""
    current = config.listen.host_key
    return current, current.with_name(current.name + ".next")
