"""`hsmd agent`: the group as it is loaded; importing the files registers their commands."""

from hsmd.cli import agent_rotate, agent_setup, agent_use, witness
from hsmd.cli.agent_options import app

__all__ = ["agent_rotate", "agent_setup", "agent_use", "app", "witness"]
