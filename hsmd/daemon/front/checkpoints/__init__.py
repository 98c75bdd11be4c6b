"""Signed checkpoints of the audit log, and the guard that watches segments, room and continuity."""
