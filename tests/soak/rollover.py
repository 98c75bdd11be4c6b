"""Plans of every topology of up to four nodes against the model, for `scripts/soak rollover`.

    python tests/soak/rollover.py --minutes N --seed N [--nodes N]

First all interleavings of the base model, in each order that is safe, whatever time that takes; then, for the minutes, the
models with relays, revocation lists and restored nodes, and the base model without each gate, for topologies that the seed
draws. Exit code 1 at the first plan in which a property breaks, a rollover is stuck, or a missing gate breaks anything but
its own property; its edges and the events before that are printed.
"""

from __future__ import annotations

import argparse
import random
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from hsmd.rollover.model import PROPERTY_OF, Fleet
from hsmd.rollover.model_extensions import Relayed, WithRestore, WithRevocation
from hsmd.rollover.model_search import Findings, search
from hsmd.rollover.plan import Gate, Plan
from hsmd.rollover.topology import Topology
from tests.support.rollover import all_topologies, is_needed, plans_of, relayed, topology

EXTENSIONS: dict[str, Callable[[Plan], Findings]] = {
    "relays": lambda found: search(Relayed(found)),
    "revocation": lambda found: search(WithRevocation(found)),
    "restore": lambda found: search(WithRestore(found)),
}
MOST_TASKS_WITH_RESTORES = 9
"""With more, a restore at any time gives millions of states for one topology."""


def main() -> int:
    """Return the exit code."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--minutes", type=float, required=True)
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--nodes", type=int, default=4, choices=(1, 2, 3, 4))
    given = parser.parse_args()
    topologies = [topology(edges, "abcd"[: given.nodes]) for edges in all_topologies(given.nodes)]
    begun = time.monotonic()
    counts: Counter[str] = Counter()
    for shown in topologies:
        for found in plans_of(shown):
            if not passes("base", found, search(Fleet(found)), counts):
                return 1
    print(
        f"{len(topologies)} topologies of {given.nodes} nodes: {time.monotonic() - begun:.0f} s", flush=True
    )
    end = time.monotonic() + given.minutes * 60
    drawn = random.Random(given.seed)
    while time.monotonic() < end:
        shown = drawn.choice(topologies)
        if not (extensions_pass(shown, counts) and gates_are_needed(shown, counts)):
            return 1
    print(", ".join(f"{name}: {count:,}" for name, count in sorted(counts.items())))
    return 0


def extensions_pass(shown: Topology, counts: Counter[str]) -> bool:
    """Whether all models of one topology pass."""
    return all(
        passes(name, found, run(found), counts)
        for name, run in EXTENSIONS.items()
        for found in plans_of(relayed(shown) if name == "relays" else shown)
        if name != "restore" or len(found.tasks) <= MOST_TASKS_WITH_RESTORES
    )


def gates_are_needed(shown: Topology, counts: Counter[str]) -> bool:
    """Whether each gate that is missing breaks its own property, and no other."""
    for found in plans_of(shown):
        for gate in Gate:
            findings = search(Fleet(found, without=[gate]))
            counts["without a gate states"] += findings.states
            if set(findings.broken) != ({PROPERTY_OF[gate]} if is_needed(found, gate) else set()):
                print(f"without {gate}, order {found.order}: {[edge.label for edge in found.topology.edges]}")
                return False
    return True


def passes(name: str, found: Plan, findings: Findings, counts: Counter[str]) -> bool:
    """Whether a search found nothing; count it, or print what it found."""
    counts[f"{name} plans"] += 1
    counts[f"{name} states"] += findings.states
    if findings.fine:
        return True
    print(f"{name}, order {found.order}: {', '.join(edge.label for edge in found.topology.edges)}")
    for broken, events in findings.broken.items():
        print(f"  {broken}: {'; '.join(events)}")
    print(f"  stuck: {findings.stuck}")
    return False


if __name__ == "__main__":
    sys.exit(main())
