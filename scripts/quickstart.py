"""The main program of scripts/quickstart: starts a deployment, makes the handshakes, prints their results."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import quickstart_handshakes as handshakes
from quickstart_deployment import Deployment, StepFailed
from rich.console import Console
from rich.table import Table


def main() -> None:
    """Exit code 0 when every handshake was verified, 1 otherwise."""
    parser = argparse.ArgumentParser(prog="scripts/quickstart")
    parser.add_argument("--dir", type=Path, default=default_directory())
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--tls12", action="store_true")
    parser.add_argument("--down", action="store_true")
    given = parser.parse_args()
    deployment = Deployment(given.dir.expanduser().absolute(), tls12=given.tls12)
    try:
        deployment.remove()
        if given.down:
            say("everything is stopped and removed")
            return
        sys.exit(0 if run(deployment, given.json) else 1)
    except (StepFailed, subprocess.TimeoutExpired) as error:
        say(f"failed: {error}")
        sys.exit(1)


def default_directory() -> Path:
    """The default directory; for root one that nginx workers (www-data) can read, unlike root's home."""
    return Path("/var/lib/hsmd-quickstart") if os.geteuid() == 0 else Path.home() / ".hsmd-quickstart"


def run(deployment: Deployment, as_json: bool) -> bool:
    """Start the deployment, make the handshakes, print the results; return whether all were verified."""
    say(f"setting up {deployment.directory}")
    deployment.start(say)
    seen = []
    for wanted in handshakes.WANTED_TLS13 + (handshakes.WANTED_TLS12 if deployment.tls12 else ()):
        say(f"handshake {wanted.name}")
        found = handshakes.make(deployment, wanted)
        seen.append(found)
        if as_json:
            print(json.dumps(asdict(found)), flush=True)
    if not as_json:
        Console(width=None if sys.stdout.isatty() else 160).print(table(seen))
        print(next_steps(deployment))
    return all(found.verified for found in seen)


def table(seen: list[handshakes.Handshake]) -> Table:
    """The handshakes as a table."""
    made = Table(
        title="The digest is SHA-256 of the signature (for RSA key exchange: of the encrypted premaster secret) as\n"
        "received by openssl s_client; a handshake is verified if the audit record contains the same digest.",
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


def next_steps(deployment: Deployment) -> str:
    """Commands to try."""
    here = f"--profile {deployment.profile}"
    where = "" if deployment.directory == default_directory() else f" --dir {deployment.directory}"
    return f"""
It keeps running. Commands to try:
  .venv/bin/hsmd status {here}
  .venv/bin/hsmd audit show {here}
  curl --cacert {deployment.ca.file} https://localhost:{deployment.ports["p256"]}/
  .venv/bin/hsmd grant remove {deployment.CLIENT} p256 {here}     then curl again
Stop it and remove everything: scripts/quickstart --down{where}"""


def say(what: str) -> None:
    """Print progress on standard error; standard output is for results."""
    print(f"==> {what}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
