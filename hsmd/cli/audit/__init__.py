"""`hsmd audit`: the group as it is loaded; importing these files registers their commands."""

from hsmd.cli.audit import export, life, proofs, reading
from hsmd.cli.audit.options import app

__all__ = ["app", "export", "life", "proofs", "reading"]
