"""The audit log on disk: what cannot be written here does not happen.

One writer, on the event loop of the front process.
"""

from hsmd.daemon.audit.log import AuditLog

__all__ = ["AuditLog"]
