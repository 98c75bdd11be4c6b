"""Roles of clients, as they stand in control requests and results, in the store and on the command line."""

from __future__ import annotations

from enum import Enum


class Role(Enum):
    """What a client is to the daemon; docs/control.md says what each may do. A client keeps its role."""

    OPERATOR = "operator"
    AUDITOR = "auditor"
    FRONT_END = "front-end"
