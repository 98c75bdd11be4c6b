"""The second half of scripts/quickstart: builds the house, makes the handshakes, prints what came of them."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import quickstart_handshakes as handshakes
from quickstart_house import House, Trouble
from rich.console import Console
from rich.table import Table


def main() -> None:
    """Exit code 0 when every handshake was verified, 1 otherwise."""
    parser = argparse.ArgumentParser(prog="scripts/quickstart")
    parser.add_argument("--dir", type=Path, default=usual_directory())
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--down", action="store_true")
    given = parser.parse_args()
    house = House(given.dir.expanduser().absolute())
    try:
        house.take_down()
        if given.down:
            say("everything that was started is stopped and removed")
            return
        sys.exit(0 if run(house, given.json) else 1)
    except (Trouble, subprocess.TimeoutExpired) as trouble:
        say(f"failed: {trouble}")
        sys.exit(1)


def usual_directory() -> Path:
    """As root a place that nginx's workers, which are www-data, can reach; root's home is not."""
    return Path("/var/lib/hsmd-quickstart") if os.geteuid() == 0 else Path.home() / ".hsmd-quickstart"


def run(house: House, as_json: bool) -> bool:
    """Builds, shakes hands, prints. True if all was verified."""
    say(f"building in {house.directory}")
    house.build(say)
    seen = []
    for wanted in handshakes.WANTED:
        say(f"handshake {wanted.name}")
        found = handshakes.make(house, wanted)
        seen.append(found)
        if as_json:
            print(json.dumps(asdict(found)), flush=True)
    if not as_json:
        Console(width=None if sys.stdout.isatty() else 160).print(table(seen))
        print(farewell(house))
    return all(found.verified for found in seen)


def table(seen: list[handshakes.Handshake]) -> Table:
    """The handshakes for people."""
    made = Table(
        title="The digest is SHA-256 of the signature (for RSA key exchange: of the encrypted premaster secret) as\n"
        "openssl s_client saw it on the wire; it is verified when the audit record holds the same.",
        title_justify="left",
    )
    for heading in ("handshake", "protocol", "cipher", "signature", "audit record", "digest", "verified"):
        made.add_column(heading, overflow="fold")
    for found in seen:
        record = "-" if found.audit_record is None else str(found.audit_record)
        digest = f"{found.digest[:16]}..." if found.digest else "-"
        verified = "[green]yes[/]" if found.verified else "[red]NO[/]"
        made.add_row(
            found.handshake, found.protocol, found.cipher, found.signature or "-", record, digest, verified
        )
    return made


def farewell(house: House) -> str:
    """What to try next."""
    here = f"--profile {house.profile}"
    where = "" if house.directory == usual_directory() else f" --dir {house.directory}"
    return f"""
It is still running; try:
  .venv/bin/hsmd status {here}
  .venv/bin/hsmd audit show {here}
  curl --cacert {house.ca.file} https://localhost:{house.ports["p256"]}/
  .venv/bin/hsmd grant remove {house.CLIENT} p256 {here}     and try curl again
Stop it and remove everything: scripts/quickstart --down{where}"""


def say(what: str) -> None:
    """Progress, on standard error: standard output is for results."""
    print(f"==> {what}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
