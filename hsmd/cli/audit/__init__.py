"""`hsmd audit`: importing a file of the group registers its command, in the order of `hsmd audit --help`."""

# isort: off
from hsmd.cli.audit.options import app
from hsmd.cli.audit import show, tail, about, verify, key, checkpoint, prove
from hsmd.cli.audit import export, verify_export, seal, archive, discontinuity, witness
# isort: on

__all__ = [
    "about",
    "app",
    "archive",
    "checkpoint",
    "discontinuity",
    "export",
    "key",
    "prove",
    "seal",
    "show",
    "tail",
    "verify",
    "verify_export",
    "witness",
]
