"""Run scripts/quickstart on minimal Debian 12 and 13 root file systems; for `scripts/soak debian`, as root."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[2]
DEBIAN_ROOT = ROOT / "scripts" / "debian-root"
HANDSHAKES = 6
PATIENCE_S = 900


def main() -> None:
    """Exit with code 1 if a handshake was not verified on a release. Minutes and seed have no effect here."""
    held = [tried(suite) for suite in ("bookworm", "trixie")]
    sys.exit(0 if all(held) else 1)


def tried(suite: str) -> bool:
    """Run it on a release; return whether all handshakes were verified."""
    with tempfile.TemporaryDirectory(prefix=f"hsmd-{suite}-") as parent:
        directory = Path(parent) / "root"
        subprocess.run([DEBIAN_ROOT, "make", directory, suite], check=True, timeout=PATIENCE_S)
        subprocess.run([DEBIAN_ROOT, "copy", directory], check=True, timeout=PATIENCE_S)
        started = time.monotonic()
        quickstart = [DEBIAN_ROOT, "run", directory, "scripts/quickstart", "--json", "--tls12"]
        done = subprocess.run(quickstart, stdout=subprocess.PIPE, text=True, check=False, timeout=PATIENCE_S)
        seconds = time.monotonic() - started
    verified = [json.loads(line)["verified"] for line in done.stdout.splitlines()]
    good = done.returncode == 0 and verified == [True] * HANDSHAKES
    print(
        f"{suite}: {sum(verified)} of {HANDSHAKES} handshakes verified, {seconds:.0f} s after the start",
        flush=True,
    )
    return good


if __name__ == "__main__":
    main()
