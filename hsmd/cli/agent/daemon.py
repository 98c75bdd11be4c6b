"""`hsmd agent daemon`: the daemons of an agent: adding one to its configuration, and removing one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from hsmd.cli.agent.options import Config, app, default_config
from hsmd.cli.base import enrolment, ssh_keys
from hsmd.cli.base.agent_toml_edit import AgentToml, list_of
from hsmd.cli.base.commands import command, group
from hsmd.cli.base.errors import CommandError, Exit
from hsmd.cli.base.output import Output, fields

if TYPE_CHECKING:
    from hsmd.agent.config import AgentConfig
    from hsmd.cli.base.output import TextOutput
    from hsmd.protocol.enrolment import EnrolmentAnswer

daemon = group(
    """The daemons that an agent connects to.

    They are tried in the order of the configuration. Each of them must have the keys that this host uses."""
)
app.add_typer(daemon, name="daemon")

_RELOAD = "\nNext:\n  Load it:              systemctl reload hsmd-agent    (or send SIGHUP to the agent)\n"


@command(
    daemon,
    "add",
    example="hsmd agent daemon add 10.9.0.3:7440 --host-key 'ssh-ed25519 AAAAC3Nza...'\n"
    "hsmd agent daemon add --enroll web1.token",
)
def add(
    output: Output,
    address: Annotated[
        str,
        typer.Argument(metavar="[ADDRESS:PORT]", help="Address of the daemon.", show_default=False),
    ] = "",
    host_key: Annotated[
        list[str],
        typer.Option(
            "--host-key", metavar="LINE", help="Host key of the daemon, or host CA; may be repeated."
        ),
    ] = [],  # noqa: B006  read only
    enroll: Annotated[
        str,
        typer.Option(
            "--enroll",
            metavar="FILE",
            help="Enrolment token file (`-` for standard input) of the daemon; replaces address and --host-key.",
            show_default=False,
        ),
    ] = "",
    config: Config = None,
) -> None:
    """Add a daemon to the agent's configuration, with its host key pinned.

    A daemon that shares its store with another one knows this agent already: give its address and host key. One with a store of
    its own must get to know it: with --enroll the agent registers the key that it has, under the name that it has.
    """
    toml = AgentToml.read((config or default_config()).absolute())
    if bool(enroll) == bool(address) or bool(enroll) == bool(host_key):
        raise CommandError(
            "give the address and --host-key of the daemon, or --enroll with a token of it",
            "see: hsmd agent daemon add --help",
            Exit.USAGE,
        )
    if enroll:
        token = enrolment.read_token(enroll)
        _refuse_known(toml, token.address)
        answer = enrolment.register_key(token, _public_line(toml))
        changed = _with_enrolled(toml, token.address, answer)
        address = token.address
    else:
        _refuse_known(toml, address)
        changed = toml.with_daemon(address, host_key)
    changed.write()
    known = f"a daemon with a store of its own does not know {toml.config.client} yet: an operator runs hsmd client enroll"
    output.show(
        _document(changed.config),
        lambda: _text(changed),
        hints=_RELOAD if enroll else f"{_RELOAD}  If need be:           {known}\n",
    )


@command(daemon, "remove", example="hsmd agent daemon remove 10.9.0.3:7440")
def remove(
    output: Output,
    address: Annotated[
        str, typer.Argument(metavar="ADDRESS:PORT", help="Address of the daemon.", show_default=False)
    ],
    config: Config = None,
) -> None:
    """Remove a daemon from the agent's configuration. The daemon goes on knowing the agent until an operator removes it there."""
    changed = AgentToml.read((config or default_config()).absolute()).without_daemon(address)
    changed.write()
    output.show(_document(changed.config), lambda: _text(changed), hints=_RELOAD)


def _public_line(toml: AgentToml) -> str:
    return ssh_keys.read(ssh_keys.public_file(toml.config.daemons[0].identity_file)).line


def _refuse_known(toml: AgentToml, address: str) -> None:
    if address in [each.address for each in toml.config.daemons]:
        raise CommandError(
            f"{toml.file} names the daemon {address} already",
            "to enrol again with it: hsmd agent init --again",
            Exit.USAGE,
        )


def _with_enrolled(toml: AgentToml, address: str, answer: EnrolmentAnswer) -> AgentToml:
    """With the daemon and the keys that it says operators and statements have."""
    if answer.client != toml.config.client:
        raise CommandError(
            f"the token is for the client {answer.client}, and this agent is {toml.config.client}",
            f"an operator of {address} runs: hsmd client rename {answer.client} {toml.config.client}; "
            "then add the daemon with its address and host key",
        )
    changed = toml.with_daemon(address, answer.host_keys)
    for setting, more in (("operator_keys", answer.operator_keys), ("statement_keys", answer.statement_keys)):
        known = changed.strings(setting)
        new = [line for line in more if line not in known]
        if new:
            changed = changed.with_agent_setting(setting, list_of([*known, *new]))
    return changed


def _document(config: AgentConfig) -> dict[str, list[str]]:
    return {"daemons": [each.address for each in config.daemons]}


def _text(toml: AgentToml) -> TextOutput:
    daemons = ", ".join(each.address for each in toml.config.daemons)
    return fields([("configuration", str(toml.file)), ("daemons", daemons)])
