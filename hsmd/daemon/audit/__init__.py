"""The audit log on disk: what cannot be recorded does not happen.

There is one writer, on the event loop of the front process.
"""

from hsmd.daemon.audit.log import AuditLog

__all__ = ["AuditLog"]
