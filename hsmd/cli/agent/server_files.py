"""`hsmd agent install`: the files that make a TLS server on this host use the agent."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from hsmd.cli.agent import defaults
from hsmd.cli.base import systemd
from hsmd.cli.base.errors import CommandError, Exit
from hsmd.cli.base.files import PUBLIC
from hsmd.cli.base.output import Output
from hsmd.system import atomic_file

OPENSSL_CONFIGURATION = Path("/etc/hsmd/openssl.cnf")
_UNIT = Path("/etc/systemd/system/nginx.service.d/hsmd.conf")
_AGENT_UNIT = Path("/etc/systemd/system") / systemd.AGENT_UNIT
_SNIPPETS = Path("/etc/nginx/snippets")


@dataclass(frozen=True, slots=True)
class Installed:
    """A file and its content; `path` as the running system sees it."""

    path: Path
    content: str


def openssl_files(socket: Path) -> list[Installed]:
    """What every TLS server needs. Raises CommandError when the provider has not been built or the socket cannot be named."""
    from hsmd.provider import openssl_configuration

    try:
        return [Installed(OPENSSL_CONFIGURATION, openssl_configuration(str(socket)))]
    except FileNotFoundError as error:
        raise CommandError(str(error), "install a wheel of hsmd that has it") from None
    except ValueError as error:
        raise CommandError(str(error), "choose another --socket", Exit.USAGE) from None


def nginx_files(key: str, directory: Path) -> list[Installed]:
    """What nginx needs besides: environment of its service, and a snippet for the server block."""
    unit = (
        "# nginx has no directive for this: OpenSSL reads its configuration where this variable says.\n"
        "[Unit]\nWants=hsmd-agent.service\nAfter=hsmd-agent.service\n\n"
        f"[Service]\nEnvironment=OPENSSL_CONF={OPENSSL_CONFIGURATION}\n"
    )
    snippet = (
        f"# include snippets/hsmd-{key}.conf; in a server block. The .key file holds no private key, only its name.\n"
        f"ssl_certificate {directory / f'{key}.pem'};\n"
        f"ssl_certificate_key {directory / f'{key}.key'};\n"
    )
    return [
        Installed(_UNIT, unit),
        Installed(_SNIPPETS / f"hsmd-{key}.conf", snippet),
    ]


OPENSSL_STEPS: tuple[str, ...] = (
    f"Give it to a service: Environment=OPENSSL_CONF={OPENSSL_CONFIGURATION} in its unit, then restart the service.",
    f"Try it:               OPENSSL_CONF={OPENSSL_CONFIGURATION} openssl list -providers",
)


SYSTEMD_STEPS: tuple[str, ...] = (
    "Then:                 systemctl daemon-reload && systemctl enable --now hsmd-agent",
    "Look at it:           systemd-analyze security hsmd-agent",
)


def systemd_files(config: Path, user: str) -> list[Installed]:
    """The agent's own service. Raises CommandError if there is no such user; ConfigurationError for a wrong agent.toml."""
    from hsmd.agent.config import KEEP, load

    group = load(config).socket.group
    defaults.known(user)
    return [Installed(_AGENT_UNIT, systemd.agent_unit(config, user, "" if group == KEEP else str(group)))]


def nginx_steps(key: str) -> tuple[str, ...]:
    """What is left to do by hand."""
    return (
        f"In the server block:  include snippets/hsmd-{key}.conf;",
        "Then:                 systemctl daemon-reload && nginx -t && systemctl restart nginx",
        "                      (a reload is not enough the first time: the environment is new)",
        f"Look whether it fits: hsmd agent check {key} --user www-data",
    )


def install(
    output: Output, files: Sequence[Installed], steps: Sequence[str], root: Path, *, only_print: bool
) -> None:
    """Writes the files below `root`, or prints them, and says what is left to do."""
    document = {
        "files": [{"path": str(file.path), "content": file.content} for file in files],
        "written": not only_print,
    }
    if not only_print:
        for file in files:
            target = root / file.path.relative_to("/")
            target.parent.mkdir(parents=True, exist_ok=True)
            atomic_file.replace(target, file.content, PUBLIC)
    output.show(
        document,
        lambda: "\n".join([*_lines(files, only_print), "", "Next:", *(f"  {step}" for step in steps)]),
    )


def _lines(files: Sequence[Installed], only_print: bool) -> list[str]:
    if not only_print:
        return [f"Wrote {file.path}" for file in files]
    return [line for file in files for line in (f"# ---- {file.path}", *file.content.splitlines(), "")]
