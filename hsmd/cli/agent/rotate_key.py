"""`hsmd agent rotate-key`: replace the agent's key."""

from __future__ import annotations

from hsmd.cli.agent.options import Config, app, default_config
from hsmd.cli.base import key_rotation
from hsmd.cli.base.commands import command
from hsmd.cli.base.output import Output


@command(
    app, "rotate-key", example="hsmd agent rotate-key\nhsmd agent rotate-key --config /etc/hsmd/agent.toml"
)
def rotate_key(output: Output, config: Config = None) -> None:
    """Replace the agent's key with a new one.

    Run it as root, or as the agent's user if that may write the key's directory; the key keeps its owner. Every daemon of the
    configuration must be reachable. A running agent continues, and connects again with the new key. Run the command again if
    it was interrupted.
    """
    from hsmd.agent.config import load

    key = key_rotation.rotate(load((config or default_config()).absolute()).daemons, "hsmd agent")
    output.show({"public_key": key.line}, lambda: f"The agent's key is now {key.fingerprint}.")
