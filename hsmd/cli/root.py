"""The top of the command tree: names, one line each, and the module that is imported when a command is called."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup


@dataclass(frozen=True, slots=True)
class Entry:
    """A command or group: `module` has an `app` with its commands."""

    module: str
    summary: str
    panel: str


_START = "Set up and run"
_MANAGE = "Manage a daemon"
_WATCH = "Watch and prove"
_FRONT_END = "On a front end"

ENTRIES: dict[str, Entry] = {
    "init": Entry(
        "hsmd.cli.init", "Prepare a directory for a daemon: configuration, host key, first operator.", _START
    ),
    "serve": Entry("hsmd.cli.serve", "Run the daemon.", _START),
    "backup": Entry("hsmd.cli.backup", "Write store, configuration and checkpoint into one archive.", _START),
    "restore": Entry("hsmd.cli.restore", "Put a backup back where there is no daemon.", _START),
    "dev": Entry(
        "hsmd.cli.dev", "Run a throw-away daemon with a temporary token, for laptops and CI.", _START
    ),
    "enroll": Entry("hsmd.cli.enroll", "Become an operator or auditor with a one-time token.", _START),
    "key": Entry("hsmd.cli.key", "Generate, adopt, import, list and destroy keys.", _MANAGE),
    "cert": Entry("hsmd.cli.cert", "Store, make and fetch certificates.", _MANAGE),
    "client": Entry("hsmd.cli.client", "Say who may connect.", _MANAGE),
    "grant": Entry("hsmd.cli.grant", "Say who may use which key for what.", _MANAGE),
    "token": Entry("hsmd.cli.token", "Show tokens; let daemons log in again after a refused PIN.", _MANAGE),
    "status": Entry("hsmd.cli.status", "Show how a daemon is and who you are to it.", _WATCH),
    "top": Entry("hsmd.cli.top", "Watch who uses which keys, how often and how fast.", _WATCH),
    "audit": Entry("hsmd.cli.audit", "Read the audit log and check that nobody changed it.", _WATCH),
    "bench": Entry("hsmd.cli.bench", "Measure operations per second.", _WATCH),
    "agent": Entry("hsmd.cli.agent", "Set up, run and check the agent of a TLS server.", _FRONT_END),
}


class LazyGroup(TyperGroup):
    """Knows all commands by name and summary, and imports the one that is called."""

    def __init__(self, **attributes: Any) -> None:
        super().__init__(**attributes)
        for name, entry in ENTRIES.items():
            self.add_command(TyperCommand(name, help=entry.summary, rich_help_panel=entry.panel))
        self._loaded: set[str] = set()

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """The command to run; its module is imported now."""
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
        epilog="First time here?  hsmd init --help  shows the way on a key host,  hsmd agent --help  on a front end.",
    )
    app.callback(help=_HELP)(_root)
    return typer.main.get_command(app)


_HELP = (
    "TLS private keys stay in a hardware security module; TLS servers only ask.\n\n"
    "A daemon next to the token uses the keys; an agent on each front end passes on what its TLS server wants signed. "
    "These commands set both up and manage them. Every command has --help with an example, and --json for programs."
)


def _version(wanted: bool) -> None:
    if wanted:
        from hsmd import __version__

        print(f"hsmd {__version__}")
        raise typer.Exit


def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and leave.")
    ] = False,
) -> None:
    """Options before the command."""
