"""`hsmd rollover`: importing a file of the group registers its command, in the order of `hsmd rollover --help`."""

# isort: off
from hsmd.cli.rollover.options import app
from hsmd.cli.rollover import plan, show, approve
# isort: on

__all__ = ["app", "approve", "plan", "show"]
