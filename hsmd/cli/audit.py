"""`hsmd audit`: the group as it is loaded; importing these files registers their commands."""

from hsmd.cli import audit_export, audit_life, audit_proofs, audit_reading
from hsmd.cli.audit_options import app

__all__ = ["app", "audit_export", "audit_life", "audit_proofs", "audit_reading"]
