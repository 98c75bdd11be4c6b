"""`hsmd agent`: the group as it is loaded; importing the files registers their commands."""

from hsmd.cli.agent import rotate_key, setup, use, witness
from hsmd.cli.agent.options import app

__all__ = ["app", "rotate_key", "setup", "use", "witness"]
