"""`hsmd node`: importing a file of the group registers its command, in the order of `hsmd node --help`."""

# isort: off
from hsmd.cli.node.options import app
from hsmd.cli.node import init, run, status, check, renew, anchor, install
# isort: on

__all__ = ["anchor", "app", "check", "init", "install", "renew", "run", "status"]
