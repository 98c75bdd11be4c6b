"""Signed checkpoints of the audit log, its continuity, and the guard of its segments and disk space."""
