"""Coverage-guided fuzzing of one target: `python tests/fuzz/run.py TARGET DIRECTORY [options of libFuzzer]`.

Coverage guides the search, so that it reaches code that random bytes would not. It stops at the first input that breaks the
target, prints it and writes it to the directory, which also holds the corpus.
"""

from __future__ import annotations

import random
import sys
from pathlib import Path

import atheris

ROOT = Path(__file__).parents[2]

# Atheris instruments modules found on sys.path, not those that the finder of an editable install loads.
sys.meta_path[:] = [finder for finder in sys.meta_path if "editable" not in type(finder).__module__]
sys.path.insert(0, str(ROOT))
with atheris.instrument_imports(include=["hsmd", "targets"]):
    import targets

GUIDED_BY_C = {"requests", "results"}
"""Targets that msgspec's C code parses, which reports no coverage: half of their inputs are mutations of a valid document."""


def main() -> None:
    """Fuzz; the exit code is 0 at the end of the time or number of runs, otherwise libFuzzer's."""
    if len(sys.argv) < 3 or sys.argv[1] not in targets.TARGETS:
        sys.exit(
            "usage: run.py TARGET DIRECTORY [options of libFuzzer]; targets: " + " ".join(targets.TARGETS)
        )
    name, directory = sys.argv[1], Path(sys.argv[2])
    seeds = list(targets.seeds(name))
    for number, seed in enumerate(seeds):
        (directory / f"seed-{number}").write_bytes(seed)

    def from_a_seed(data: bytes, max_size: int, number: int) -> bytes:
        chance = random.Random(number)
        begin = chance.choice(seeds) if chance.random() < 0.5 else data
        return atheris.Mutate(begin, max_size)

    limits = ["-max_len=4096", "-timeout=10", "-rss_limit_mb=2048", f"-artifact_prefix={directory}/"]
    mutator = {"custom_mutator": from_a_seed} if name in GUIDED_BY_C else {}
    atheris.Setup([sys.argv[0], *limits, *sys.argv[3:], str(directory)], targets.TARGETS[name], **mutator)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
