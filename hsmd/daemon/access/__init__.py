"""Access: who somebody is, and whether they may. Pure: a snapshot of the store decides and names the rule."""

from hsmd.daemon.access.identity import Identity, Role
from hsmd.daemon.access.rules import Denial, Explanation, Rule
from hsmd.daemon.access.snapshot import Grant, Snapshot

__all__ = ["Denial", "Explanation", "Grant", "Identity", "Role", "Rule", "Snapshot"]
