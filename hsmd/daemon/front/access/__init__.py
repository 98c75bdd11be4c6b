"""Access: who somebody is, and whether they may. Pure: a snapshot of the store decides and names the rule."""

from hsmd.daemon.front.access.identity import Identity
from hsmd.daemon.front.access.rules import Denial, Explanation, Rule
from hsmd.daemon.front.access.snapshot import Grant, Snapshot

__all__ = ["Denial", "Explanation", "Grant", "Identity", "Rule", "Snapshot"]
