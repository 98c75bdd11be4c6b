"""Backup and restore of everything except the token: store, configuration, host key, checkpoint and, on request, audit log.

Both run on the daemon's host, whether the daemon runs or not, and use neither token nor network.
"""
