"""`hsmd agent`: the process on a front end that TLS servers ask for signatures."""

from __future__ import annotations

import os
from contextlib import ExitStack
from datetime import UTC, datetime
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hsmd.cli import (
    agent_install,
    agent_place,
    agent_toml,
    check_agent,
    check_files,
    check_openssl,
    findings,
    ssh_keys,
)
from hsmd.cli.commands import command
from hsmd.cli.connection import DEFAULT_TIMEOUT_S
from hsmd.cli.export import export_key
from hsmd.cli.failures import Exit, Stop
from hsmd.cli.files import PRIVATE, PRIVATE_DIRECTORY, SHARED_DIRECTORY, exists, make_directory, write_new
from hsmd.cli.output import Output, fields, note, stack

if TYPE_CHECKING:
    from hsmd.cli.ssh_keys import PublicLine

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    help="The agent of a front end.\n\nIt holds no key of a TLS server. It connects to the daemon that is pinned in its configuration, and passes on what "
    "TLS servers on this host want signed. Set-up in four steps: agent init, agent run, agent export KEY, agent install nginx --key KEY. "
    "When something does not work: agent check KEY.",
)

Config = Annotated[
    Path | None,
    typer.Option(
        "--config",
        "-c",
        metavar="FILE",
        help="Configuration. Default: /etc/hsmd/agent.toml, or in ~/.config/hsmd for users.",
    ),
]
Socket = Annotated[
    Path | None,
    typer.Option("--socket", metavar="PATH", help="The agent's socket. Default: as its configuration says."),
]
Key = Annotated[str, typer.Argument(metavar="KEY", help="Name of the key.", show_default=False)]


class Server(Enum):
    """What `install` knows."""

    NGINX = "nginx"
    OPENSSL = "openssl"


@command(
    app,
    "init",
    example="hsmd agent init --daemon 10.9.0.1:7440 --client web1 --host-key 'ssh-ed25519 AAAAC3Nza...'",
)
def init(
    output: Output,
    daemon: Annotated[
        str, typer.Option("--daemon", metavar="ADDRESS:PORT", help="The daemon.", show_default=False)
    ],
    host_key: Annotated[
        list[str],
        typer.Option(
            "--host-key", metavar="LINE", help="Its host key, as `hsmd init` printed it; may be repeated."
        ),
    ],
    client: Annotated[
        str,
        typer.Option("--client", metavar="NAME", help="Our client name at the daemon.", show_default=False),
    ],
    allow: Annotated[
        list[str],
        typer.Option(
            "--allow",
            metavar="USER",
            help="A user of this host that may use the keys; may be repeated. Default: you, and for root also the web servers' users.",
        ),
    ] = [],  # noqa: B006  read only
    owner: Annotated[
        str,
        typer.Option(
            "--owner",
            metavar="USER",
            help="The user the agent runs as, to own its files.",
            show_default=False,
        ),
    ] = "",
    config: Config = None,
    socket: Socket = None,
) -> None:
    """Make the agent's own key and its configuration, with the daemon's host key pinned.

    It prints the line that an operator runs to let this agent in. Nothing that exists is overwritten.
    """
    from hsmd.agent.config import parse
    from hsmd.client import Endpoint, parse_address

    file = (config or _default_config()).absolute()
    identity = file.parent / "agent_ed25519"
    for path in (file, identity):
        if path.exists() or path.is_symlink():
            raise exists(path)
    pinned = agent_toml.Pinned(daemon, tuple(host_key), client, identity)
    Endpoint(*parse_address(daemon), pinned.host_keys, client, identity)  # refuses what no agent could use
    local = agent_place.choose(file, socket, tuple(allow))
    text = agent_toml.render(local, pinned)
    parse(text, source=str(file))
    with ExitStack() as undo:
        make_directory(
            file.parent,
            SHARED_DIRECTORY if file.parent == agent_place.SYSTEM_DIRECTORY else PRIVATE_DIRECTORY,
        )
        undo.callback(identity.unlink, missing_ok=True)
        undo.callback(ssh_keys.public_file(identity).unlink, missing_ok=True)
        key = ssh_keys.make(identity, f"{client}, hsmd agent")
        agent_place.give(identity, owner)
        undo.callback(file.unlink, missing_ok=True)
        write_new(file, text, PRIVATE)
        agent_place.give(file, owner)
        undo.pop_all()
    _report_init(output, file, local, client, key)


def _report_init(output: Output, file: Path, local: agent_toml.Local, client: str, key: PublicLine) -> None:
    line = f"hsmd client add {client} --key '{key.line}'"
    document = {
        "config": str(file),
        "socket": str(local.socket),
        "users": local.users,
        "client": client,
        "public_key": key.line,
        "operator_runs": line,
    }
    made = fields(
        [
            ("configuration", str(file)),
            ("socket", str(local.socket)),
            ("for the users", ", ".join(local.users)),
            ("key", key.fingerprint),
        ]
    )
    steps = (
        f"\nNext:\n  1. An operator runs:  {line}\n"
        f"                        hsmd grant add {client} KEY\n"
        f"  2. Start it here:     hsmd agent run --config {file}\n"
        "  3. For each key:      hsmd agent export KEY\n"
        "  4. For the server:    hsmd agent install nginx --key KEY\n"
    )
    output.show(document, lambda: stack(made, steps))


@command(app, "run", example="hsmd agent run --config /etc/hsmd/agent.toml")
def run(output: Output, config: Config = None) -> None:
    """Run the agent until it is told to stop.

    It starts and stays without the daemon, answers "unavailable" at once meanwhile, and connects again by itself. The log goes
    to standard error, one JSON object per line.
    """
    from hsmd import agent

    code = agent.main((config or _default_config()).absolute())
    if code:
        raise typer.Exit(code)


@command(app, "export", example="hsmd agent export www --out /etc/hsmd/keys")
def export(
    output: Output,
    key: Key,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            "-o",
            metavar="DIR",
            help="Where to write. Default: `keys` beside the agent's configuration.",
        ),
    ] = None,
    config: Config = None,
    socket: Socket = None,
) -> None:
    """Write what a TLS server loads: KEY.pem, the certificate chain, and KEY.key, which stands for the private key.

    Both are fetched through the agent. Neither is secret: KEY.key names the key and holds its public half. Files that are
    there are replaced. Run it again, and reload the server, when the certificate has been renewed.
    """
    from hsmd.client import AgentEndpoint, Client

    directory = (out or _default_keys(config)).absolute()
    directory.mkdir(parents=True, exist_ok=True)
    with Client.connect(AgentEndpoint(_socket(socket, config))) as agent:
        made = export_key(agent, key, directory, timeout_s=DEFAULT_TIMEOUT_S)
    document = {
        "key": key,
        "reference": str(made.reference),
        "chain": None if made.chain is None else str(made.chain),
    }
    output.show(
        document,
        lambda: fields(
            [
                ("key reference", str(made.reference)),
                ("certificate chain", str(made.chain or "(none stored)")),
            ]
        ),
    )
    if made.chain is None and not output.as_json:
        note(f"No certificate is stored for {key}: hsmd cert import {key} CHAIN, then export it again")


@command(
    app,
    "install",
    example="hsmd agent install nginx --key www\nhsmd agent install nginx --key www --print\nhsmd agent install openssl",
)
def install(
    output: Output,
    server: Annotated[
        Server, typer.Argument(metavar="nginx|openssl", help="For which server.", show_default=False)
    ],
    key: Annotated[
        str,
        typer.Option("--key", metavar="KEY", help="For nginx: the key, exported before.", show_default=False),
    ] = "",
    keys: Annotated[
        Path | None, typer.Option("--keys", metavar="DIR", help="Where `agent export` wrote it.")
    ] = None,
    config: Config = None,
    socket: Socket = None,
    only_print: Annotated[
        bool, typer.Option("--print", help="Print the files instead of writing them.")
    ] = False,
    root: Annotated[
        Path, typer.Option("--root", metavar="DIR", help="Write below this directory, for images.")
    ] = Path("/"),
) -> None:
    """Write the OpenSSL configuration that loads hsmd's provider, and for nginx what makes its service use it.

    For nginx: a systemd drop-in with OPENSSL_CONF, and a snippet with certificate and key for your server block. For anything
    else that uses OpenSSL 3 (HAProxy, Apache, Python, ...): the configuration alone, to be given by OPENSSL_CONF.
    """
    listen = _socket(socket, config)
    if server is Server.OPENSSL:
        files, steps = agent_install.openssl_files(listen), agent_install.OPENSSL_STEPS
    elif not key:
        raise Stop("nothing says which key nginx shall use", "add --key KEY", Exit.USAGE)
    else:
        files = agent_install.nginx_files(listen, key, (keys or _default_keys(config)).absolute())
        steps = agent_install.nginx_steps(key)
    agent_install.install(output, files, steps, root, only_print=only_print)


@command(
    app,
    "check",
    example="hsmd agent check www\nhsmd agent check www --user www-data --file /etc/hsmd/keys/www.key",
)
def check(
    output: Output,
    key: Key,
    file: Annotated[
        Path | None,
        typer.Option(
            "--file", metavar="FILE", help="Key reference. Default: where `agent export` writes it."
        ),
    ] = None,
    certificate: Annotated[
        Path | None,
        typer.Option("--certificate", metavar="FILE", help="Chain. Default: beside the key reference."),
    ] = None,
    openssl: Annotated[
        Path, typer.Option("--openssl", metavar="FILE", help="OpenSSL configuration of the server.")
    ] = agent_install.OPENSSL_CONFIGURATION,
    user: Annotated[
        str,
        typer.Option(
            "--user", metavar="NAME", help="The user the server runs as, for permissions.", show_default=False
        ),
    ] = "",
    config: Config = None,
    socket: Socket = None,
) -> None:
    """Look at everything between a TLS server and its key, and say how to mend what is wrong.

    Socket and permissions, agent, daemon, grant, key reference, certificate and its end, OpenSSL and its providers. Exit code 4
    means that there is a problem.
    """
    path = _socket(socket, config)
    reference = file or _default_keys(config) / f"{key}.key"
    chain = certificate or reference.with_suffix(".pem")
    found, info = check_agent.check_agent(path, key, user)
    found += check_agent.check_policy(config or _default_config(), key, user)
    found += check_files.check_reference(reference, info)
    found += check_files.check_certificate(chain, info, datetime.now(UTC))
    found += check_openssl.check_openssl(openssl, reference)
    findings.report(output, found)


# --- defaults ---


def _default_config() -> Path:
    return agent_place.directory() / "agent.toml"


def _default_keys(config: Path | None) -> Path:
    return (config.absolute().parent if config else agent_place.directory()) / "keys"


def _socket(given: Path | None, config: Path | None) -> Path:
    """Where the agent listens: as typed, as its configuration says, or where it is by default."""
    from hsmd.agent.config import load

    if given is not None:
        return given.absolute()
    file = (config or _default_config()).absolute()
    if config is None and not os.access(file, os.R_OK):
        return agent_place.socket_for(file)
    return load(file).socket.path
