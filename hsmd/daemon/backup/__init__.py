"""Backup and restore of everything but the token: store, configuration, host key, newest checkpoint, and the log if asked for.

Both run on the daemon's host, beside or without the daemon, and touch neither token nor network.
"""
