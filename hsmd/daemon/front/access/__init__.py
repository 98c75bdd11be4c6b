"""Access control: which client a connection belongs to, and what it may do. A snapshot of the store decides; no I/O."""

from hsmd.daemon.front.access.identity import Identity
from hsmd.daemon.front.access.rules import Denial, Explanation, Rule
from hsmd.daemon.front.access.snapshot import Grant, Snapshot

__all__ = ["Denial", "Explanation", "Grant", "Identity", "Rule", "Snapshot"]
