"""README's commands on bare Debian 12 and 13, timed; for `scripts/soak debian`, as root.

    scripts/soak debian                              scripts/quickstart, also with TLS 1.2, and its --down
    scripts/soak debian --only test                  scripts/test: the whole suite, half an hour or more on each release
    scripts/soak debian --suite trixie               one release; may be repeated, as --only
    scripts/soak debian --only test --pytest tests/unit    a part of the suite

It prints a line for each command: release, command, time, result. A release is a host of the test bed with its base and
systemd, and the network of this machine. The commands are the first lines of README's sections "Try it" and "Develop". The
source tree, in /srv, is on disk; all else the host writes is in memory.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.support.hosts import Bed, Host, roots
from tests.support.processes import ROOT

SUITES = ("bookworm", "trixie")
SECTIONS = {"quickstart": "Try it", "test": "Develop"}
PATIENCE_S = 2400.0
VERIFIED = re.compile(r' yes +│$|"verified": ?true', re.MULTILINE)
OUTCOME = re.compile(r"^(?:\d+ (?:failed|passed)|FAILED|ERROR).*$", re.MULTILINE)
"""What pytest says in the end."""


def main() -> None:
    """Exit with code 1 if something failed on a release."""
    parser = argparse.ArgumentParser(prog="scripts/soak debian")
    parser.add_argument("--suite", action="append", choices=SUITES)
    parser.add_argument("--only", action="append", choices=SECTIONS)
    parser.add_argument("--pytest", default="", metavar="ARGUMENTS")
    for unused in ("--minutes", "--seed"):
        parser.add_argument(unused, help=argparse.SUPPRESS)
    given = parser.parse_args()
    good = True
    for suite in given.suite or SUITES:
        with tempfile.TemporaryDirectory(prefix=f"hsmd-{suite}-", dir="/var/tmp") as directory, Bed() as bed:
            subprocess.run([ROOT / "scripts/debian-root", "copy", directory], check=True, timeout=60)
            host = bed.host(suite, roots.debian(suite), {}, {Path(directory, "srv"): "/srv:rw"})
            bed.boot()
            for name in given.only or ("quickstart",):
                line = command(SECTIONS[name])
                if name == "test":
                    good &= tried(host, f"{line} {given.pytest}".strip())
                    continue
                for options, handshakes in (("", 3), (" --tls12 --json", 6)):
                    good &= tried(host, line + options, handshakes)
                    good &= tried(host, f"{line} --down")
    sys.exit(0 if good else 1)


def command(section: str) -> str:
    """The first line of the first block of a section of README."""
    text = (ROOT / "README.md").read_text()
    found = re.search(rf"^## {section}$.*?^```\n(.*?)\n", text, re.MULTILINE | re.DOTALL)
    assert found, f"README has no section {section!r} with a command"
    return found[1]


def tried(host: Host, line: str, handshakes: int = 0) -> bool:
    """Run a line in the source tree and print how long it took; return whether it succeeded, with so many verified handshakes."""
    words = ["timeout", "--kill-after=20", f"{PATIENCE_S:.0f}", "bash", "-c", f"cd /srv/hsmd && {line}"]
    began, load = time.monotonic(), os.getloadavg()[0]
    done = host.run(*words, online=True, check=False, timeout_s=PATIENCE_S + 60)
    seconds = time.monotonic() - began
    verified = len(VERIFIED.findall(done.stdout))
    results = [f"{verified} of {handshakes} handshakes verified"] if handshakes else []
    results += OUTCOME.findall(done.stdout)
    good = done.returncode == 0 and verified >= handshakes
    results.append(f"load of this machine {load:.1f} before and {os.getloadavg()[0]:.1f} after")
    print(f"{host.name:10}{line:36}{seconds:7.0f} s  {'ok' if good else f'FAILED ({done.returncode})'}: {'; '.join(results)}", flush=True)  # fmt: skip
    if not good:
        print(f"{done.stdout[-8000:]}\n{done.stderr[-3000:]}", flush=True)
    return good


if __name__ == "__main__":
    main()
