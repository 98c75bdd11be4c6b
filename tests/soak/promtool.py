"""Check rules and metrics with Prometheus' own promtool, from Debian's package; for `scripts/soak monitoring`.

The package is unpacked in a temporary directory and not installed.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from hsmd.metrics.agent_families import AgentNumbers, agent_families
from hsmd.metrics.daemon_families import families
from hsmd.metrics.exposition import Process, pieces
from hsmd.protocol.messages import DaemonLink, Health
from tests.support.metrics import NOON, numbers_of
from tests.support.monitoring_files import DASHBOARD, RULES, expressions

PATIENCE_S = 600
BROKEN_RULE = "groups:\n- name: x\n  rules:\n  - alert: X\n    expr: hsmd_health{ == 1\n"


def main() -> None:
    """Exit with code 1 if promtool finds a fault, or does not find the one that is put in. Minutes and seed have no effect."""
    with tempfile.TemporaryDirectory(prefix="hsmd-promtool-") as parent:
        directory = Path(parent)
        promtool = unpacked(directory)
        good = [
            checked(promtool, "rules", RULES),
            checked(promtool, "rules", written(directory / "dashboard.yml", of_dashboard())),
            not checked(promtool, "rules", written(directory / "broken.yml", BROKEN_RULE), quiet=True),
            linted(promtool),
        ]
    sys.exit(0 if all(good) else 1)


def unpacked(directory: Path) -> Path:
    """The program, from the package."""
    subprocess.run(
        ["apt-get", "download", "-qq", "prometheus"], cwd=directory, check=True, timeout=PATIENCE_S
    )
    (package,) = directory.glob("prometheus_*.deb")
    subprocess.run(["dpkg", "-x", package, directory / "root"], check=True, timeout=PATIENCE_S)
    return directory / "root" / "usr" / "bin" / "promtool"


def checked(promtool: Path, what: str, file: Path, *, quiet: bool = False) -> bool:
    done = subprocess.run(
        [promtool, "check", what, file], capture_output=True, text=True, check=False, timeout=60
    )
    if not quiet:
        print(done.stdout + done.stderr, flush=True)
    return done.returncode == 0


def of_dashboard() -> str:
    """The expressions of the dashboard as recording rules, because promtool reads no dashboards."""
    rules = "".join(
        f"  - record: panel_{number}\n    expr: '{expression}'\n"
        for number, expression in enumerate(expressions()[DASHBOARD.name])
    )
    return f"groups:\n- name: dashboard\n  rules:\n{rules}"


def written(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def linted(promtool: Path) -> bool:
    """Whether names, types and texts of all metrics are as Prometheus wants them."""
    health = Health("well", [], "web1", "1", NOON, [DaemonLink("10.9.0.1:7440", "in-use")], 1, 2)
    numbers = AgentNumbers(health, 1, 1, {"performed": 1}, 1, 0, 0, NOON)
    texts = [pieces(families(numbers_of())), pieces(agent_families(numbers)), pieces(Process().families())]
    exposition = b"".join(piece for text in texts for piece in text)
    done = subprocess.run(
        [promtool, "check", "metrics"], input=exposition, capture_output=True, check=False, timeout=60
    )
    print((done.stdout + done.stderr).decode() or "metrics: no fault", flush=True)
    return done.returncode == 0


if __name__ == "__main__":
    main()
