"""Remove every listed mitigation in a copy, one at a time: its test must fail then. For `scripts/soak mutations`.

    python tests/mutations/run.py --minutes N --seed N [--only TEXT]

First all named tests run on the unchanged copy. The minutes do not matter: the whole list is run; the seed orders it.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.mutations import mitigations
from tests.mutations.copied_tree import CopiedTree


def main() -> None:
    """Exit with 0 if each removal was noticed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float)
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--only", default="", help="mitigations whose name, file or test has this text")
    given = parser.parse_args()
    chosen = [each for each in mitigations.load() if given.only in f"{each.name} {each.file} {each.test}"]
    faults = [fault for each in chosen for fault in each.faults()]
    if faults or not chosen:
        sys.exit("\n".join(faults) or "no mitigation has this text")
    random.Random(given.seed).shuffle(chosen)
    with tempfile.TemporaryDirectory(prefix="hsmd-mutations-") as name:
        sys.exit(_run(CopiedTree(Path(name)), chosen))


def _run(tree: CopiedTree, chosen: list[mitigations.Mitigation]) -> int:
    tests = sorted({each.test for each in chosen})
    print(f"{len(tests)} tests on the unchanged copy", flush=True)
    unchanged = tree.passes(tests)
    if unchanged.returncode != 0:
        print(unchanged.stdout[-4000:], unchanged.stderr[-1000:])
        return 1
    unnoticed = 0
    for number, each in enumerate(chosen, 1):
        started = time.monotonic()
        noticed, line = tree.notices(each)
        unnoticed += not noticed
        verdict = "noticed" if noticed else "NOT NOTICED"
        print(
            f"{number:3}/{len(chosen)} {verdict:11} {time.monotonic() - started:5.1f} s  {each.name}  ({line})",
            flush=True,
        )
    print(f"{len(chosen) - unnoticed} of {len(chosen)} removed mitigations were noticed")
    return 1 if unnoticed else 0


if __name__ == "__main__":
    main()
