"""`hsmd statement`: importing a file of the group registers its command, in the order of `hsmd statement --help`."""

# isort: off
from hsmd.cli.statement.options import app
from hsmd.cli.statement import verify, keys, endorse
# isort: on

__all__ = ["app", "endorse", "keys", "verify"]
