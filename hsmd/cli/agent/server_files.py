"""The files that `hsmd agent install` writes, and the steps that remain."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from hsmd.cli.base import server_list, systemd
from hsmd.cli.base.errors import CommandError, Exit
from hsmd.cli.base.files import PUBLIC
from hsmd.cli.base.output import Output
from hsmd.cli.base.system_users import system_user
from hsmd.system import atomic_file
from hsmd.system.directories import make_shared

OPENSSL_CONFIGURATION = Path("/etc/hsmd/openssl.cnf")
_UNIT = Path("/etc/systemd/system/nginx.service.d/hsmd.conf")
_SNIPPETS = Path("/etc/nginx/snippets")


@dataclass(frozen=True, slots=True)
class Installed:
    """A file and its content; `path` as the running system sees it."""

    path: Path
    content: str


def openssl_files(socket: Path) -> list[Installed]:
    """The OpenSSL configuration. Raises CommandError if the provider is not installed or the socket's path is unsuitable."""
    from hsmd.provider import openssl_configuration

    try:
        return [Installed(OPENSSL_CONFIGURATION, openssl_configuration(str(socket)))]
    except FileNotFoundError as error:
        raise CommandError(str(error), "install hsmd from a wheel, which contains it") from None
    except ValueError as error:
        step = "choose another --socket" if str(error).startswith("socket") else "then run the command again"
        raise CommandError(str(error), step, Exit.USAGE) from None


def nginx_files(key: str, directory: Path) -> list[Installed]:
    """The files for nginx besides: the environment of its service, and a snippet for a server block."""
    unit = (
        "# OpenSSL reads the configuration that this variable names; nginx has no directive for it.\n"
        "[Unit]\nWants=hsmd-agent.service\nAfter=hsmd-agent.service\n\n"
        f"[Service]\nEnvironment=OPENSSL_CONF={OPENSSL_CONFIGURATION}\n"
    )
    snippet = (
        f"# Use in a server block: include snippets/hsmd-{key}.conf; The .key file is a reference, not a private key.\n"
        f"ssl_certificate {directory / f'{key}.pem'};\n"
        f"ssl_certificate_key {directory / f'{key}.key'};\n"
    )
    return [
        Installed(_UNIT, unit),
        Installed(_SNIPPETS / f"hsmd-{key}.conf", snippet),
    ]


OPENSSL_STEPS: tuple[str, ...] = (
    f"For a service:        set Environment=OPENSSL_CONF={OPENSSL_CONFIGURATION} in its unit and restart it",
    f"Test it:              OPENSSL_CONF={OPENSSL_CONFIGURATION} openssl list -providers",
)


SYSTEMD_STEPS: tuple[str, ...] = (
    "Then:                 systemctl daemon-reload && systemctl enable --now hsmd-agent",
    "Review it:            systemd-analyze security hsmd-agent",
)


def systemd_files(config: Path, user: str) -> list[Installed]:
    """The units of the agent and of what installs renewed certificates.

    Raises CommandError for an unknown user; ConfigurationError for an invalid agent.toml.
    """
    from hsmd.agent.config import KEEP, load

    settings = load(config)
    group = settings.socket.group
    system_user(user, "--user")
    units = {systemd.AGENT_UNIT: systemd.agent_unit(config, user, "" if group == KEEP else str(group))}
    units |= systemd.deploy_units(settings.state, config.parent / "keys", server_list.beside(config))
    return [Installed(systemd.DIRECTORY / name, text) for name, text in units.items()]


def nginx_steps(key: str) -> tuple[str, ...]:
    """The remaining steps for nginx."""
    return (
        f"In the server block:  include snippets/hsmd-{key}.conf;",
        "Then:                 systemctl daemon-reload && nginx -t && systemctl restart nginx",
        "                      (a reload is not enough the first time, because the environment changes)",
        f"Check the set-up:     hsmd agent check {key} --user www-data",
    )


def install(
    output: Output, files: Sequence[Installed], steps: Sequence[str], root: Path, *, only_print: bool
) -> None:
    """Write the files below `root`, or print them, and print the remaining steps."""
    document = {
        "files": [{"path": str(file.path), "content": file.content} for file in files],
        "written": not only_print,
    }
    if not only_print:
        for file in files:
            target = _below(root, file)
            make_shared(target.parent)
            atomic_file.replace(target, file.content, PUBLIC)
    output.show(
        document,
        lambda: "\n".join(_lines(files, root, only_print)),
        hints="\n".join(["", "Next:", *(f"  {step}" for step in steps)]),
    )


def _below(root: Path, file: Installed) -> Path:
    return root / file.path.relative_to("/")


def _lines(files: Sequence[Installed], root: Path, only_print: bool) -> list[str]:
    if not only_print:
        return [f"Wrote {_below(root, file)}" for file in files]
    return [line for file in files for line in (f"# ---- {file.path}", *file.content.splitlines(), "")]
