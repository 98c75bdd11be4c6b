"""`hsmd agent`: importing a file of the group registers its command, in the order of `hsmd agent --help`."""

# isort: off
from hsmd.cli.agent.options import app
from hsmd.cli.agent import init, run, status, export, install, check, deploy, daemon, rotate_key, witness
# isort: on

__all__ = [
    "app",
    "check",
    "daemon",
    "deploy",
    "export",
    "init",
    "install",
    "rotate_key",
    "run",
    "status",
    "witness",
]
