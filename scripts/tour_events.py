"""scripts/tour events: a grant that runs out, a certificate that nears its end, a follower that was away."""

from __future__ import annotations

import json
import signal
from datetime import timedelta
from hashlib import sha256
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from quickstart_ca import Authority
from tour_steps import Tour, expect, main, stop, wait_for

from hsmd.algorithms import SignatureScheme
from hsmd.errors import Refused
from hsmd.purposes import Purpose
from hsmd.testing import Daemon

USES = 3
"""What the grant allows that runs out."""
TERM = timedelta(seconds=15)
"""How long the certificate is valid that nears its end."""
PROGRAM = """\
#!/bin/sh
# Notes the event on its standard input, and fails at the first two runs.
cat >> "$1"; [ "$(wc -l < "$1")" -gt 2 ]
"""
SLOW = """\
#!/bin/sh
# Notes the event, and takes long at the first run.
cat >> "$1"; [ "$(wc -l < "$1")" -gt 1 ] || exec sleep 60
"""


class Scene:
    """A daemon with one key, and a directory for the files of its followers."""

    def __init__(self, tour: Tour, daemon: Daemon, directory: Path) -> None:
        self.tour = tour
        self.daemon = daemon
        self.directory = directory
        self._profile = ("--profile", daemon.operator_profile)

    def cursor(self) -> str:
        """Where the ledger ends."""
        return str(self.daemon.command("events", "--since", "now")["cursor"])

    def events(self, since: str) -> list[dict[str, Any]]:
        """The events behind a cursor."""
        found: list[dict[str, Any]] = self.daemon.command("events", "--since", since)["events"]
        return found

    def renew(self, times: int = 1) -> None:
        """Store a new certificate for the key: each is an event."""
        for _ in range(times):
            # The one that a CA of the tour has issued has ended, or does so in this second.
            self.daemon.command("cert", "self-signed", "www", "--dns", "www.test", "--force")

    def follow(self, *options: str | Path, output: str = "") -> Any:
        """Start `hsmd events --follow`; its output goes to a file, if one is named."""
        to = self.tour.resources.enter_context((self.directory / output).open("ab")) if output else None
        return self.tour.start("events", "--follow", "--json", *options, *self._profile, stdout=to, stderr=to)

    def noted(self, file: str) -> list[dict[str, Any]]:
        """The events in a file that followers or programs wrote."""
        path = self.directory / file
        lines = path.read_text().splitlines() if path.exists() else []
        return [json.loads(line) for line in lines if line.startswith("{") and line.endswith("}")]

    def program(self, name: str, text: str, output: str) -> str:
        """A program for --exec that writes to `output`."""
        path = self.directory / name
        path.write_text(text)
        path.chmod(0o700)
        return f"{path} {self.directory / output}"


def run(tour: Tour) -> None:
    """The tour."""
    directory = Path(tour.resources.enter_context(TemporaryDirectory(prefix="hsmd-tour-")))
    with tour.step("daemon", "a temporary daemon with a software token and the key www") as seen:
        daemon = tour.daemon("www:p-256:tls13-server")
        seen["address"] = daemon.address
    scene = Scene(tour, daemon, directory)
    grant_that_runs_out(scene)
    certificate_that_ends(scene)
    follower_that_was_away(scene)
    program_that_fails(scene)
    follower_that_was_killed(scene)


def grant_that_runs_out(scene: Scene) -> None:
    """A front end uses a grant of three uses up."""
    tour, daemon, begin = scene.tour, scene.daemon, scene.cursor()
    follower = scene.follow("--since", begin, "--kind", "grant.exhausted", output="exhausted")
    with tour.step("grant", f"{daemon.front_end} may use www {USES} times, by request of TICKET-17") as seen:
        limits = ("--max-uses", str(USES), "--request", "TICKET-17")
        daemon.command("grant", "remove", daemon.front_end, "www")
        daemon.command("grant", "add", daemon.front_end, "www", "--purpose", "tls13-server", *limits)
        seen["max_uses"] = USES
    with tour.step("grant-used", f"it signs {USES} handshakes, and is refused the next one") as seen:
        seen["signatures"] = signatures(daemon)
        expect(seen["signatures"] == USES, f"{seen['signatures']} signatures")
    with tour.step(
        "grant-exhausted", "a follower is told that the grant has run out, and what it was for"
    ) as seen:
        wait_for(lambda: scene.noted("exhausted"), "the event")
        event = scene.noted("exhausted")[0]
        expect(event["payload"]["request"] == "TICKET-17", f"seen instead: {event}")
        seen |= {
            "id": event["id"],
            "client": event["payload"]["client"],
            "request": event["payload"]["request"],
        }
        stop(follower)


def signatures(daemon: Daemon) -> int:
    """How many TLS 1.3 handshakes the front end can sign until it is refused; it tries one more than it may."""
    signed = b" " * 64 + b"TLS 1.3, server CertificateVerify" + b"\0" + sha256(b"a handshake").digest()
    made = 0
    with daemon.client() as client:
        for _ in range(USES + 1):
            try:
                client.use_key(
                    daemon.keys["www"].digest,
                    Purpose.TLS13_SERVER,
                    SignatureScheme.ECDSA_SHA256,
                    signed,
                )
            except Refused:
                break
            made += 1
    return made


def certificate_that_ends(scene: Scene) -> None:
    """A certificate of a few seconds passes all of its thresholds."""
    tour, begin = scene.tour, scene.cursor()
    with tour.step(
        "short-certificate", f"a certificate that is valid for {TERM.seconds} s is stored for www"
    ) as seen:
        pem = scene.daemon.command("key", "csr", "www", "--dns", "www.test")["pem"]
        authority = Authority(scene.directory / "ca.pem", before=timedelta(0), lifetime=TERM)
        file = scene.directory / "chain.pem"
        file.write_bytes(authority.sign_request(pem.encode()))
        scene.daemon.command("cert", "import", "www", str(file))
        seen["event"] = scene.events(begin)[0]["kind"]
        expect(seen["event"] == "certificate.replaced", "no event tells of the new certificate")
    scene.follow("--since", begin, "--kind", "certificate.ending", output="endings")
    for threshold in ("third", "tenth", "end"):
        shows = {
            "third": "a follower is told when a third of that time is left",
            "tenth": "and when a tenth is left",
            "end": "and at the end, each once",
        }[threshold]
        with tour.step(f"certificate-{threshold}", shows) as seen:
            told = ["third", "tenth", "end"]
            wanted = told[: told.index(threshold) + 1]
            wait_for(lambda: len(scene.noted("endings")) >= len(wanted), f"the threshold {threshold}")  # noqa: B023
            found = scene.noted("endings")
            expect([one["payload"]["threshold"] for one in found] == wanted, f"seen instead: {found}")
            seen |= {"id": found[-1]["id"], "left_s": found[-1]["payload"]["left_s"]}


def follower_that_was_away(scene: Scene) -> None:
    """What happens while a follower is away comes when it is back, in order and once."""
    tour, state = scene.tour, scene.directory / "cursor"
    with tour.step("follower", "a follower is shown an event as it happens, and saves its cursor") as seen:
        follower = scene.follow("--since", "now", "--state", state, output="shown")
        wait_for(state.exists, "the cursor of the follower")
        scene.renew()
        wait_for(lambda: len(scene.noted("shown")) == 1, "the event")
        wait_for(lambda: state.read_text().strip() == scene.noted("shown")[0]["id"], "the saved cursor")
        seen["id"] = scene.noted("shown")[0]["id"]
    with tour.step("away", "it is stopped, and three certificates are stored") as seen:
        stop(follower)
        scene.renew(3)
        seen["ids"] = [one["id"] for one in scene.events(state.read_text().strip())]
    with tour.step("back", "when it is back, it is shown these three, in order and once") as seen:
        back = scene.follow("--state", state, output="shown")
        wait_for(lambda: len(scene.noted("shown")) >= 4, "the events of its absence")
        scene.renew()
        wait_for(lambda: len(scene.noted("shown")) >= 5, "an event as it happens")
        ids = [one["id"] for one in scene.noted("shown")]
        expect(len(set(ids)) == len(ids) == 5, f"events came twice: {ids}")
        stop(back)
        seen["ids"] = ids[1:4]


def program_that_fails(scene: Scene) -> None:
    """A program that fails gets its event again, and the next one only then."""
    tour, begin = scene.tour, scene.cursor()
    program = scene.program("fails-twice", PROGRAM, "runs")
    with tour.step("exec-fails-twice", "a program that fails twice gets the first event three times") as seen:
        scene.renew(2)
        ids = [one["id"] for one in scene.events(begin)]
        child = scene.follow(
            "--since", begin, "--state", scene.directory / "done", "--exec", program, output="log"
        )
        wait_for(lambda: len(scene.noted("runs")) >= 4, "four runs of the program")
        wait_for(lambda: (scene.directory / "done").read_text().strip() == ids[1], "the saved cursor")
        runs = [one["id"] for one in scene.noted("runs")]
        expect(runs == [ids[0]] * 3 + [ids[1]], f"the runs were for {runs}")
        seen["runs"] = runs
        stop(child)


def follower_that_was_killed(scene: Scene) -> None:
    """After a kill the event that was being dealt with comes again, with the same id."""
    tour, begin = scene.tour, scene.cursor()
    program = scene.program("slow", SLOW, "slow-runs")
    options = ("--since", begin, "--state", scene.directory / "killed", "--exec", program)
    with tour.step("exec-killed", "hsmd events is killed (SIGKILL) while its program runs") as seen:
        scene.renew()
        child = scene.follow(*options, output="log")
        wait_for(lambda: len(scene.noted("slow-runs")) == 1, "a run of the program")
        stop(child, signal.SIGKILL)
        seen["id"] = scene.noted("slow-runs")[0]["id"]
    with tour.step("exec-again", "the next start runs the program again, for the same event") as seen:
        scene.follow(*options, output="log")
        wait_for(lambda: len(scene.noted("slow-runs")) == 2, "another run of the program")
        first, second = scene.noted("slow-runs")
        expect(first == second, f"first {first}, then {second}")
        seen["id"] = second["id"]


if __name__ == "__main__":
    main("events", run)
