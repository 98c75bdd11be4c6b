"""Four hosts with systemd, Debian 12 and 13, set up by the operators' documents, and what operators do; for `scripts/soak hosts`.

    scripts/soak hosts                       every journey
    scripts/soak hosts --only restarts       set-up and one journey; may be repeated
    scripts/soak hosts --suite trixie        one release
    scripts/soak hosts --quick               hsmd is copied to the hosts, not installed by the documents
    scripts/soak hosts --list                names of the journeys

On each release a key host and a front end (and a second key host and an operator's computer, for the journeys that need
them) start bare. Upgrades have hosts of their own. What is done on them are the commands of docs/*.md, taken from their marked blocks; see
tests/support/hosts/documents.py for the table of what differs. As root, with an apt mirror and a package index.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.soak import hosts_readme, hosts_upgrades
from tests.soak.hosts_journeys import JOURNEYS, NEEDS
from tests.soak.hosts_steps import Report
from tests.support.hosts import Bed, roots
from tests.support.hosts.documents import HSMD_SOURCE
from tests.support.hosts.site import Site

ROOT = Path(__file__).parents[2]
SUITES = ("bookworm", "trixie")
SEPARATE = hosts_readme.JOURNEYS | hosts_upgrades.JOURNEYS
"""Journeys with hosts of their own."""


def main() -> None:
    """Exit with code 1 if a step failed."""
    given = arguments()
    everything = JOURNEYS | SEPARATE
    if given.list:
        print("\n".join(f"{name:18}{what.__doc__.splitlines()[0]}" for name, what in everything.items()))
        return
    unknown = set(given.only) - set(everything)
    if unknown:
        sys.exit(f"scripts/soak hosts: no such journey: {', '.join(sorted(unknown))}; --list shows them")
    wanted = set(given.only or everything)
    wanted |= {other for name in wanted for other in NEEDS.get(name, ())}
    suites = given.suite or SUITES
    report = Report()
    with tempfile.TemporaryDirectory(prefix="hsmd-wheel-") as directory:
        with report.step("", "prepare", "wheel of this tree"):
            wheel = build_wheel(Path(directory))
        if wanted & set(JOURNEYS):
            together(
                [name for name in JOURNEYS if name in wanted | {"setup"}],
                suites,
                wheel,
                report,
                quick=given.quick,
            )
        for name in SEPARATE:
            if name in wanted:
                apart(name, suites, wheel, report)
    print(report.table())
    sys.exit(1 if report.failed else 0)


def together(chosen: list[str], suites: Sequence[str], wheel: Path, report: Report, *, quick: bool) -> None:
    """Journeys one after the other on the same hosts; releases side by side."""
    with Bed() as bed:
        sites = [made(bed, suite, wheel, report, quick=quick) for suite in suites]
        with report.step("", "prepare", f"{len(bed.hosts)} hosts boot"):
            bed.boot()
        with ThreadPoolExecutor(len(sites)) as pool:
            list(pool.map(lambda site: travelled(site, chosen, report), sites))


def apart(name: str, suites: Sequence[str], wheel: Path, report: Report) -> None:
    """A journey with hosts of its own; releases side by side."""
    with ThreadPoolExecutor(len(suites)) as pool:
        travel = SEPARATE[name]
        list(
            pool.map(lambda suite: report.journey(suite, name, lambda: travel(suite, wheel, report)), suites)
        )


def arguments() -> argparse.Namespace:
    """Minutes and seed are given by scripts/soak, and have no effect here."""
    parser = argparse.ArgumentParser(prog="scripts/soak hosts", description=__doc__.splitlines()[0])
    parser.add_argument("--only", action="append", default=[], metavar="JOURNEY")
    parser.add_argument("--suite", action="append", default=[], choices=SUITES)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--list", action="store_true")
    for unused in ("--minutes", "--seed"):
        parser.add_argument(unused, help=argparse.SUPPRESS)
    return parser.parse_args()


def build_wheel(directory: Path) -> Path:
    """A wheel of this tree, and a constraint that makes pip take its version; return the directory."""
    build = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--quiet",
        "--no-build-isolation",
        "--no-deps",
        "--wheel-dir",
        str(directory),
        str(ROOT),
    ]
    done = subprocess.run(build, capture_output=True, text=True, timeout=300, check=False)
    if done.returncode != 0:
        raise AssertionError(f"no wheel:\n{done.stderr[-3000:]}")
    (wheel,) = directory.glob("hsmd-*.whl")
    (directory / "constraints").write_text(f"hsmd=={wheel.name.split('-')[1]}\n")
    directory.chmod(0o755)
    return directory


def made(bed: Bed, suite: str, wheel: Path, report: Report, *, quick: bool) -> Site:
    """The bare hosts of a release. A key host has its vendor's module, a front end its TLS servers."""
    root = roots.with_hsmd if quick else roots.debian
    with report.step(suite, "prepare", "root file systems"):
        files = {
            "key": root(suite, "softhsm2", "opensc", "wget"),
            "key2": root(suite, "softhsm2", "opensc", "wget"),
            "database": roots.debian(suite, "postgresql"),
            "front": root(suite, "nginx-light", "haproxy", "apache2", "postgresql"),
            "operator": root(suite),
        }
    return Site(bed, suite, files, {wheel: HSMD_SOURCE})


def travelled(site: Site, chosen: list[str], report: Report) -> None:
    """Do the journeys at a site. A failure ends a journey; without the set-up there are no others."""
    for name in chosen:
        good = report.journey(site.name, name, lambda name=name: JOURNEYS[name](site, report))
        if name == "setup" and not good:
            return


if __name__ == "__main__":
    main()
