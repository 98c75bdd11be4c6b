"""Scenarios of the test suite with long counts, for the items of `scripts/soak` that are not fuzzers.

    python tests/soak/suite.py ITEM --minutes N --seed N

Counts grow with the minutes; the seed goes to pytest-randomly, and so to Hypothesis and `random`.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
TIMEOUT_FACTOR = 4
"""Timeout of a test, as a multiple of the requested minutes."""


@dataclass(frozen=True, slots=True)
class Scenario:
    """Test files, counts (environment variable: its value for a number of minutes), options of pytest."""

    files: tuple[str, ...]
    counts: dict[str, Callable[[float], int]]
    options: tuple[str, ...] = ()


NEW_EXAMPLES = ("--hypothesis-profile=search",)
"""The test suite draws the same examples each time; here the seed determines them."""


SHOW_FIGURES = ("--capture=no",)
"""Show what the scenario prints: progress, and times to error and to recovery."""

SCENARIOS = {
    "workers": Scenario(
        ("tests/faults/test_daemon_workers.py",),
        {"HSMD_TEST_WORKER_FAULTS": lambda minutes: int(minutes * 6)},
    ),
    "front": Scenario(
        ("tests/faults/test_daemon_processes.py",),
        {"HSMD_TEST_FRONT_KILLS": lambda minutes: int(minutes * 10)},
    ),
    "evidence": Scenario(
        ("tests/faults/test_evidence.py",),
        {
            "HSMD_TEST_EVIDENCE_FRONT_KILLS": lambda minutes: int(minutes * 12),
            "HSMD_TEST_EVIDENCE_WORKER_KILLS": lambda minutes: int(minutes * 40),
            "HSMD_TEST_EVIDENCE_FLIPS": lambda minutes: int(minutes * 4),
        },
        SHOW_FIGURES,
    ),
    "imports": Scenario(
        ("tests/faults/test_imports.py",),
        {"HSMD_TEST_IMPORTS": lambda minutes: max(2, int(minutes * 14.4))},
        SHOW_FIGURES,
    ),
    "token-faults": Scenario(
        ("tests/faults/test_token_away.py",),
        {
            "HSMD_TEST_AWAY": lambda minutes: int(minutes * 5),
            "HSMD_TEST_STALLS": lambda minutes: int(minutes * 20),
            "HSMD_TEST_DISK_FAULTS": lambda minutes: int(minutes * 5),
        },
        SHOW_FIGURES,
    ),
    "tiny-frames": Scenario(
        ("tests/faults/test_daemon_floods.py",),
        {"HSMD_TEST_TINY_FRAMES": lambda minutes: int(minutes * 500_000)},
    ),
    "transcripts": Scenario(
        ("tests/soak/transcript_flood.py",),
        {"HSMD_LONG_ROUNDS": lambda minutes: int(minutes * 2)},
        SHOW_FIGURES,
    ),
    "honest-tls12": Scenario(
        ("tests/soak/honest_tls12.py",),
        {"HSMD_HONEST_EACH": lambda minutes: int(minutes * 200)},
        SHOW_FIGURES,
    ),
    "purposes": Scenario(
        (
            "tests/integration/daemon/test_requests.py",
            "tests/integration/daemon/test_hostile_worker.py",
            "tests/unit/purposes/test_honest_randoms.py",
        ),
        {
            "HSMD_TEST_HOSTILE": lambda minutes: int(minutes * 600),
            "HSMD_TEST_HONEST": lambda minutes: int(minutes * 2_000_000),
        },
        SHOW_FIGURES,
    ),
    "oracle": Scenario(
        ("tests/attacks/test_premaster_oracle.py",),
        {"HSMD_TEST_ORACLE_SAMPLES": lambda minutes: int(minutes * 3_400)},
        ("-s",),
    ),
    "access": Scenario(
        ("tests/property/test_access_model.py",),
        {
            "HSMD_MODEL_SEQUENCES": lambda minutes: int(minutes * 3_334),
            "HSMD_MODEL_EXAMPLES": lambda minutes: int(minutes * 5),
        },
        NEW_EXAMPLES,
    ),
    "shares": Scenario(
        ("tests/faults/test_rate_limits.py",),
        {
            "HSMD_FLOOD_S": lambda minutes: int(minutes * 20),
            "HSMD_FLOOD_IDLE": lambda minutes: 2_000,
            "HSMD_FLOOD_RATIO": lambda minutes: 2,
        },
        ("-s",),
    ),
    "properties": Scenario(("tests/property", "tests/unit"), {}, NEW_EXAMPLES),
    "log-edits": Scenario(
        ("tests/faults/test_log_edits.py",),
        {
            "HSMD_TEST_LOG_EDITS": lambda minutes: int(minutes * 320)
        },  # for each of two keys and four attackers
    ),
    "vault-race": Scenario(
        ("tests/faults/test_vault_race.py",),
        {
            "HSMD_VAULT_RACE_ROUNDS": lambda minutes: int(minutes * 2),
            "HSMD_VAULT_RACE_KILLS": lambda minutes: 5,
        },
        SHOW_FIGURES,
    ),
    "vault-blindness": Scenario(
        ("tests/attacks/test_vault_blindness.py",),
        {"HSMD_VAULT_OPENER_THOROUGH": lambda minutes: 1},
        SHOW_FIGURES,
    ),
    "vault-load": Scenario(
        ("tests/faults/test_vault_load.py",),
        {
            "HSMD_VAULT_LOAD_OWNERS": lambda minutes: 100,
            "HSMD_VAULT_LOAD_RECORDS": lambda minutes: 100,
            "HSMD_VAULT_LOAD_REQUESTS": lambda minutes: 200,
            "HSMD_VAULT_LOAD_MS": lambda minutes: 20,
            "HSMD_VAULT_LOAD_ROUNDS": lambda minutes: int(minutes * 2),
            "HSMD_VAULT_LOAD_S": lambda minutes: 10,
            "HSMD_VAULT_LOAD_CHECKS": lambda minutes: 25,
            "HSMD_VAULT_LOAD_PERCENT": lambda minutes: 120,
        },
        SHOW_FIGURES,
    ),
    "ledger": Scenario(
        ("tests/faults/test_ledger_load.py",),
        {
            "HSMD_TEST_LEDGER_ROUNDS": lambda minutes: int(minutes * 3),
            "HSMD_TEST_LEDGER_S": lambda minutes: 10,
            "HSMD_TEST_LEDGER_PERCENT": lambda minutes: 110,
        },
        SHOW_FIGURES,
    ),
    "vault-rekey": Scenario(
        ("tests/faults/test_vault_rekey.py",),
        {"HSMD_TEST_REKEY_DEPOSITS": lambda minutes: int(minutes * 100)},
        SHOW_FIGURES,
    ),
    "nodes": Scenario(
        ("tests/e2e/test_nodes.py",),
        {"HSMD_TEST_NODE_SERVICES": lambda minutes: 1},
        SHOW_FIGURES,
    ),
    "outages": Scenario(
        ("tests/e2e/test_outages.py", "tests/e2e/test_restarts.py"),
        {
            "HSMD_E2E_QUIET_S": lambda minutes: int(minutes * 6),
            "HSMD_E2E_OUTAGE_S": lambda minutes: int(minutes * 6),
            "HSMD_E2E_AFTER_S": lambda minutes: int(minutes * 6),
            "HSMD_E2E_STEADY_S": lambda minutes: int(minutes * 6),
        },
    ),
}


def main() -> None:
    """Run the scenario; exit with pytest's code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("item", choices=SCENARIOS)
    parser.add_argument("--minutes", type=float, required=True)
    parser.add_argument("--seed", type=int, required=True)
    given = parser.parse_args()
    scenario = SCENARIOS[given.item]
    counts = {name: str(max(1, count(given.minutes))) for name, count in scenario.counts.items()}
    print(" ".join(f"{name}={count}" for name, count in counts.items()), flush=True)
    timeout_s = max(300, int(given.minutes * 60 * TIMEOUT_FACTOR))
    command = [
        sys.executable, "-m", "pytest", "-q", *scenario.files,
        f"--randomly-seed={given.seed}", f"--timeout={timeout_s}",
        *scenario.options,
    ]  # fmt: skip
    sys.exit(subprocess.run(command, cwd=ROOT, env={**os.environ, **counts}, check=False).returncode)


if __name__ == "__main__":
    main()
