"""`hsmd agent status`: whether handshakes of this host's TLS servers work now, as the running agent tells it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hsmd.cli.agent.options import Config, Socket, app, socket_of
from hsmd.cli.base.commands import command
from hsmd.cli.base.connection import DEFAULT_TIMEOUT_S
from hsmd.cli.base.errors import CommandError, Exit
from hsmd.cli.base.health import end, health_text
from hsmd.cli.base.output import Output, fields, table, when
from hsmd.errors import BadRequest, Refused
from hsmd.protocol.messages import Health, HealthRead

if TYPE_CHECKING:
    from pathlib import Path

    from hsmd.cli.base.output import TextOutput


@command(app, "status", example="hsmd agent status\nhsmd agent status --json | jq .level")
def status(output: Output, config: Config = None, socket: Socket = None) -> None:
    """Show whether handshakes on this host work now and what to do if not; then the daemons and the agent's keys.

    Exit code 0: they work, and nothing needs attention. 5: they work, but may not for long. 4: they fail, all or some.
    3: the agent cannot be reached. `hsmd agent check KEY` tries the way from a TLS server to a key.
    """
    path = socket_of(socket, config)
    health = _ask(path)
    output.show(health, lambda: _text_output(health, path))
    end(health.level)


def _ask(socket: Path) -> Health:
    from hsmd.client import AgentEndpoint, Client

    try:
        with Client.connect(AgentEndpoint(socket)) as agent:
            answer = agent.control(HealthRead(), timeout_s=DEFAULT_TIMEOUT_S)
    except (BadRequest, Refused) as error:
        raise CommandError(
            "the running agent is of an earlier release, which does not tell its health",
            "restart it: systemctl restart hsmd-agent; or use: hsmd agent check KEY",
            Exit.FAILED,
        ) from error
    assert isinstance(answer, Health)
    return answer


def _text_output(health: Health, socket: Path) -> TextOutput:
    compared = f", compared with the daemon {health.compared_s} s ago" if health.compared_s >= 0 else ""
    rows = [(link.address, link.state, link.level or "-", link.reason or "-") for link in health.daemons]
    return (
        *health_text(health.level, health.findings),
        fields(
            [
                ("agent", f"{health.client}, version {health.version}, at {socket}"),
                ("since", when(health.started_at)),
                ("keys", f"{health.keys}{compared}"),
            ]
        ),
        table(("DAEMON", "STATE", "ITS HEALTH", "REASON"), rows),
    )
