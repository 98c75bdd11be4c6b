"""The top level of the command tree: names, summaries, and the module that is imported when a command is called."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup


@dataclass(frozen=True, slots=True)
class Entry:
    """A command or group; the `app` of `module` has its commands."""

    module: str
    summary: str
    panel: str


_START = "Set up and run"
_MANAGE = "Manage a daemon"
_WATCH = "Observe and verify"
_FRONT_END = "On a front end"

ENTRIES: dict[str, Entry] = {
    "init": Entry(
        "hsmd.cli.init", "Create what a daemon needs: configuration, host key, store, first operator.", _START
    ),
    "serve": Entry("hsmd.cli.serve", "Run the daemon.", _START),
    "systemd": Entry("hsmd.cli.systemd", "Write the service that runs the daemon.", _START),
    "host-key": Entry("hsmd.cli.host_key", "Replace the SSH host key of a daemon without downtime.", _START),
    "backup": Entry(
        "hsmd.cli.backup", "Back up store, configuration and newest checkpoint to one archive.", _START
    ),
    "restore": Entry("hsmd.cli.restore", "Restore a backup on a host that has no daemon yet.", _START),
    "dev": Entry("hsmd.cli.dev", "Run a temporary daemon with a software token, for laptops and CI.", _START),
    "enroll": Entry("hsmd.cli.enroll", "Register as an operator or auditor with a one-time token.", _START),
    "key": Entry("hsmd.cli.key", "Generate, adopt, import, list and destroy keys.", _MANAGE),
    "cert": Entry("hsmd.cli.cert", "Create, import and export certificates.", _MANAGE),
    "ca": Entry("hsmd.cli.ca", "Certificate authorities with keys in a token.", _MANAGE),
    "client": Entry("hsmd.cli.client", "Add and remove clients, trust user CAs, revoke keys.", _MANAGE),
    "grant": Entry("hsmd.cli.grant", "Allow clients to use keys for particular purposes.", _MANAGE),
    "vault": Entry(
        "hsmd.cli.vault", "Keep keys in a store that cannot open them; check public keys.", _MANAGE
    ),
    "token": Entry("hsmd.cli.token", "Show tokens; resume logins after a refused PIN.", _MANAGE),
    "rollover": Entry(
        "hsmd.cli.rollover", "Plan how a fleet changes the key of its CA without a failed handshake.", _MANAGE
    ),
    "status": Entry("hsmd.cli.status", "Show the daemon's status and your identity.", _WATCH),
    "top": Entry("hsmd.cli.top", "Watch the use of keys by client, with rates and latencies.", _WATCH),
    "events": Entry("hsmd.cli.events", "Show and follow events; run a program for each.", _WATCH),
    "statement": Entry(
        "hsmd.cli.statement", "Verify statements of daemons; list and endorse their keys.", _WATCH
    ),
    "audit": Entry("hsmd.cli.audit", "Read, verify and archive the audit log.", _WATCH),
    "bench": Entry("hsmd.cli.bench", "Measure operations per second.", _WATCH),
    "agent": Entry("hsmd.cli.agent", "Set up, run and check the agent of a TLS server.", _FRONT_END),
    "node": Entry(
        "hsmd.cli.node", "Keep certificate and trust anchors of a TLS server or client.", _FRONT_END
    ),
}


class LazyGroup(TyperGroup):
    """Lists all commands by name and summary; imports only the one that is called."""

    def __init__(self, **attributes: Any) -> None:
        super().__init__(**attributes)
        for name, entry in ENTRIES.items():
            self.add_command(TyperCommand(name, help=entry.summary, rich_help_panel=entry.panel))
        self._loaded: set[str] = set()

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """The command to run; imports its module."""
        if args and args[0] in ENTRIES and args[0] not in self._loaded:
            self.add_command(_load(args[0]))
            self._loaded.add(args[0])
        return super().resolve_command(ctx, args)


def _load(name: str) -> Any:
    app = import_module(ENTRIES[name].module).app
    made = typer.main.get_command(app)
    made.name = name
    return made


def application() -> Any:
    """The command tree."""
    app = typer.Typer(
        cls=LazyGroup,
        no_args_is_help=True,
        rich_markup_mode="rich",
        context_settings={"help_option_names": ["-h", "--help"]},
        epilog="To begin: hsmd init --help on a key host, hsmd agent --help on a front end.",
    )
    app.callback(help=_HELP)(_root)
    return typer.main.get_command(app)


_HELP = (
    "TLS private keys stay in a hardware security module; TLS servers request signatures.\n\n"
    "A daemon next to the token performs the key operations; an agent on each front end forwards the requests of its "
    "TLS servers. These commands set up and manage both. Every command has --help with an example, and --json for programs."
)


def _version(wanted: bool) -> None:
    if wanted:
        from hsmd import __version__

        print(f"hsmd {__version__}")
        raise typer.Exit


def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Options before the command."""
