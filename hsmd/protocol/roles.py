"""Roles of clients, as they stand in control requests and results, in the store and on the command line."""

from __future__ import annotations

from enum import Enum


class Role(Enum):
    """What a client is to the daemon. A client keeps its role."""

    OPERATOR = "operator"
    """Manages keys, clients and grants; uses no keys."""
    AUDITOR = "auditor"
    """Reads the audit log and what it is about; changes nothing but its own key."""
    FRONT_END = "front-end"
    """Uses the keys that it has grants on."""
