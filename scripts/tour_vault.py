"""scripts/tour vault: an owner's keys in a store that cannot open them, a lost disk, checks, a use limit and a term.

With --postgresql the same across two daemons that share a store: deposits go through one, acquisitions and checks through the
other, and each of them is killed once.
"""

from __future__ import annotations

import json
import re
import shutil
import socket
import ssl
import subprocess
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_ssh_private_key,
)
from quickstart_ca import Authority
from temporary_machine import Machine
from tour_steps import Tour, expect, main, stop, wait_for

from hsmd.pkcs11.softhsm import make_token

if TYPE_CHECKING:
    from temporary_fleet import Fleet

OWNER = "anna"
MATCH, MISMATCH, NO_ANSWER, UNUSABLE = 0, 3, 4, 5
"""Exit codes of `hsmd vault check`."""
REFUSED = 1
USES = 2
"""The maximum of the record shop."""
TERM = timedelta(seconds=20)
"""Of the record short."""
PASSPHRASE = "of the second copy, in a drawer"
LONGEST_S = 420
"""Of this tour, which runs some sixty commands: half a minute where nothing else runs."""
HANDSHAKE_S = 20


@dataclass(frozen=True, slots=True)
class Site:
    """Where the daemons are: deposits go to one address, acquisitions and checks to another, which may be the same."""

    operator_profile: Path
    deposits: str
    requests: str
    fleet: Fleet | None = None


@dataclass
class Scene:
    """The machines, and what the steps hand on to each other."""

    tour: Tour
    directory: Path
    site: Site
    operator: Machine
    owner: Machine
    web: Machine
    shop: Machine
    mail: Machine
    public_keys: dict[str, Path] = field(default_factory=dict)
    """The public half of each record, as the application servers have it."""

    @property
    def second_copy(self) -> Path:
        """The file with the second copy of the management key."""
        return self.directory / "drawer" / "management-key"

    def enroll(self, machine: Machine, client: str, role: str, at: str) -> list[str]:
        """An operator makes a token for a client, which registers an SSH key of its own with it; its roles."""
        made = self.operator.hsmd("client", "enroll", client, "--role", role, "--address", at, at=at)
        roles: list[str] = machine.hsmd("enroll", "-", text=made["token"])["roles"]
        return roles

    def as_owner(self, *arguments: str | Path, at: str = "", **options: Any) -> Any:
        """A command of the owner with the second copy of the management key."""
        key = ("--management-key", self.second_copy, "--passphrase-fd", "FD")
        return self.owner.hsmd(
            *arguments, *key, passphrase=PASSPHRASE, at=at or self.site.requests, **options
        )

    def get(self, record: str, file: Path) -> dict[str, Any]:
        """Take a key out into a file on the owner's machine."""
        got: dict[str, Any] = self.as_owner("vault", "get", record, "--output", file)
        return got

    def check(self, machine: Machine, key: Path, code: int, verdict: str) -> dict[str, Any]:
        """Ask about a key. Raises StepFailed unless the answer is as described."""
        answer = machine.hsmd("vault", "check", OWNER, key, code=code, at=self.site.requests)
        expect(answer["verdict"] == verdict, f"the verdict is {answer['verdict']}")
        told = ("verdict", "record", "state", "reason")
        shown = {name: answer[name] for name in told if answer[name] not in ("", "none")}
        return {**shown, "exit_code": code}

    def newest(self, record: str, at: str) -> dict[str, Any]:
        """The newest version of a record, as this daemon shows it."""
        found: dict[str, Any] = self.owner.hsmd("vault", "show", record, at=at)["versions"][0]
        return found

    def state(self, at: str) -> dict[str, dict[str, Any]]:
        """The newest version of every record, as this daemon has it."""
        return {one["record"]: one for one in self.owner.hsmd("vault", "list", at=at)["records"]}

    def uses(self, record: str, at: str) -> str:
        """How often a record was given out and asked for."""
        newest = self.newest(record, at)
        return f"{newest['released']} given out, {newest['requests']} asked for"


class Follower:
    """`hsmd vault events --follow` on a machine, until it is stopped."""

    def __init__(self, scene: Scene, machine: Machine, name: str) -> None:
        """Return when it follows."""
        self._output = scene.directory / f"events-{name}"
        cursor = scene.directory / f"cursor-{name}"
        with self._output.open("wb") as output:
            self._child = scene.tour.start(
                *("vault", "events", "--follow", "--since", "now", "--json", "--state", cursor),
                *("--daemon", scene.site.requests),
                env=machine.environment, stdout=output, stderr=output,
            )  # fmt: skip
        wait_for(cursor.exists, f"the cursor of {name}")

    def about(self, record: str) -> list[dict[str, Any]]:
        """The events about a record, as they came."""
        lines = self._output.read_text().splitlines()
        events = [json.loads(line) for line in lines if line.startswith("{") and line.endswith("}")]
        return [one for one in events if one["subject"] == f"{OWNER}/{record}"]

    def stop(self) -> None:
        """End it."""
        stop(self._child)


def run(tour: Tour) -> None:
    """The tour."""
    directory = Path(tour.resources.enter_context(TemporaryDirectory(prefix="hsmd-tour-")))
    site = two_daemons(tour, directory) if tour.given("--postgresql") else one_daemon(tour)
    scene = prepared(tour, directory, site)
    owner_and_key(scene)
    deposits(scene)
    if site.fleet is not None:
        first_daemon_killed(scene, site.fleet)
    acquisition(scene)
    lost_disk(scene)
    checks(scene)
    use_limit(scene)
    if site.fleet is not None:
        second_daemon_killed(scene, site.fleet)
    term(scene)


def one_daemon(tour: Tour) -> Site:
    """A temporary daemon for everything."""
    with tour.step("daemon", "a temporary daemon with a software token") as seen:
        daemon = tour.daemon("www:p-256:tls13-server")
        seen["address"] = daemon.address
    return Site(daemon.operator_profile, daemon.address, daemon.address)


def two_daemons(tour: Tour, directory: Path) -> Site:
    """One daemon for deposits, another for acquisitions and checks."""
    with tour.step("daemons", "two temporary daemons that share a PostgreSQL and a software token") as seen:
        from temporary_fleet import Fleet  # the other tour needs no PostgreSQL

        fleet = Fleet(tour.resources, directory)
        seen["addresses"] = [fleet.address(0), fleet.address(1)]
    return Site(fleet.operator_profile(), fleet.address(0), fleet.address(1), fleet)


def prepared(tour: Tour, directory: Path, site: Site) -> Scene:
    """The machines, without anything on them but that of the operator."""
    (directory / "drawer").mkdir()
    operator = Machine(directory / "operator", site.operator_profile)
    owner, web, shop, mail = (Machine(directory / name) for name in (OWNER, "web", "shop", "mail"))
    return Scene(tour, directory, site, operator, owner, web, shop, mail)


def owner_and_key(scene: Scene) -> None:
    """The owner logs in, makes a management key, registers it, and an operator confirms it."""
    tour, owner, site = scene.tour, scene.owner, scene.site
    with tour.step(
        "owner", f"an operator enrolls {OWNER}, who has an SSH key and a token of their own"
    ) as seen:
        seen["roles"] = scene.enroll(owner, OWNER, "owner", site.deposits)
        settings = token_of(owner)
    with tour.step(
        "management-key", "the owner makes a management key: in the token, and a second copy in a file"
    ) as seen:
        made = owner.hsmd(
            "vault", "keygen", "--owner", OWNER, "--token", settings, "--backup", scene.second_copy,
            "--backup-passphrase-fd", "FD", passphrase=PASSPHRASE,
        )  # fmt: skip
        seen |= {"suite": made["suite"], "fingerprint": made["fingerprint"]}
    with tour.step(
        "registered", "the owner registers it; nothing can be deposited before an operator has confirmed it"
    ) as seen:
        registered = owner.hsmd("vault", "register", at=site.deposits)
        expect(registered["fingerprint"] == made["fingerprint"], "the daemon has another fingerprint")
        refused = owner.hsmd("vault", "generate", "too-early", at=site.deposits, code=REFUSED)
        seen |= {"state": registered["state"], "refused": refused["error"]["text"]}
    with tour.step(
        "confirmed", "the operator compares the fingerprint that the owner has told, and confirms it"
    ) as seen:
        scene.operator.hsmd("vault", "confirm", OWNER, made["fingerprint"], at=site.deposits)
        seen["state"] = owner.hsmd("vault", "keys", at=site.deposits)["keys"][0]["state"]


def token_of(owner: Machine) -> Path:
    """A SoftHSM token on the owner's machine; the file that names it."""
    made = make_token(owner.home / "token", "owner")
    owner.environment |= made.environment
    settings = owner.home / "owner.toml"
    settings.touch(mode=0o600)
    settings.write_text(f'[token]\nmodule = "{made.module}"\nlabel = "owner"\npin_file = "{made.pin_file}"\n')
    return settings


def deposits(scene: Scene) -> None:
    """Three keys for three application servers."""
    tour, owner, at = scene.tour, scene.owner, scene.site.deposits
    with tour.step(
        "deposit-www", "a key that the owner has, for the web server; its file is destroyed"
    ) as seen:
        key = ec.generate_private_key(ec.SECP256R1())
        file = owner.home / "www.pem"
        file.touch(mode=0o600)
        file.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
        certify(scene, key)
        made = owner.hsmd("vault", "put", "www", file, at=at)
        file.unlink()
        seen |= {"version": made["version"], "key": made["key"][:16]}
        publish(scene, "www", made)
    with tour.step("deposit-mail", "a key that is made and sealed in the token, for the mail server") as seen:
        settings = owner.home / "owner.toml"
        made = owner.hsmd("vault", "generate", "mail", "--type", "rsa-2048", "--token", settings, at=at)
        seen |= {"version": made["version"], "key": made["key"][:16]}
        publish(scene, "mail", made)
    with tour.step(
        "deposit-shop", f"a key for the shop, which is given out {USES} times and not more"
    ) as seen:
        made = owner.hsmd("vault", "generate", "shop", "--max-uses", str(USES), "--mode", "deny", at=at)
        seen |= {"version": made["version"], "key": made["key"][:16], "max_uses": made["max_uses"]}
        publish(scene, "shop", made)


def certify(scene: Scene, key: ec.EllipticCurvePrivateKey) -> None:
    """A certificate for the web server's key, by a CA of the tour."""
    names = x509.SubjectAlternativeName([x509.DNSName("localhost")])
    request = (
        x509.CertificateSigningRequestBuilder()
        .subject_name(x509.Name([]))
        .add_extension(names, critical=False)
    )
    chain = Authority(scene.directory / "ca.pem").sign_request(
        request.sign(key, hashes.SHA256()).public_bytes(Encoding.PEM)
    )
    (scene.web.home / "chain.pem").write_bytes(chain)


def publish(scene: Scene, record: str, made: dict[str, Any]) -> None:
    """Give the public half of a deposit to the application servers."""
    scene.public_keys[record] = scene.directory / f"{record}.pub"
    scene.public_keys[record].write_text(made["public_key"])


def first_daemon_killed(scene: Scene, fleet: Fleet) -> None:
    """The daemon that has taken the deposits ends without notice."""
    with scene.tour.step(
        "first-killed", "the daemon that took the deposits is killed; the other one has them all"
    ) as seen:
        before = scene.state(scene.site.deposits)
        fleet.kill(0)
        after = scene.state(scene.site.requests)
        expect(after == before, f"before {before}, after {after}")
        seen["records"] = sorted(after)


def second_daemon_killed(scene: Scene, fleet: Fleet) -> None:
    """The daemon that has counted the uses ends without notice."""
    tour, site = scene.tour, scene.site
    with tour.step(
        "second-killed", "the daemon that counted is killed; the first one, back again, has every use"
    ) as seen:
        before = scene.state(site.requests)
        fleet.kill(1)
        fleet.start(0)
        after = scene.state(site.deposits)
        expect(after == before, f"before {before}, after {after}")
        seen["uses"] = [f"{record}: {one.get('released', 0)}" for record, one in sorted(after.items())]
    with tour.step("limit-holds", "and gives out nothing beyond the maximum") as seen:
        failed = scene.as_owner("vault", "get", "shop", "--output", "no.pem", at=site.deposits, code=REFUSED)
        seen |= {"refused": failed["error"]["text"], "uses": scene.uses("shop", site.deposits)}
        fleet.start(1)


def acquisition(scene: Scene) -> None:
    """A key is taken out, and serves a TLS handshake."""
    tour, at = scene.tour, scene.site.requests
    with tour.step("acquired", "the owner takes the web server's key out; the use is counted") as seen:
        file = scene.web.home / "key.pem"
        got = scene.owner.hsmd("vault", "get", "www", "--output", file, at=at)
        seen |= {"released": got["released"], "uses": scene.uses("www", at)}
    with tour.step(
        "handshake", "openssl s_server serves TLS with it: the client sees the key that was deposited"
    ) as seen:
        seen |= handshake(scene, file)


def handshake(scene: Scene, key: Path) -> dict[str, Any]:
    """A TLS handshake with a server that has the key; what the client saw."""
    authority, log = scene.directory / "ca.pem", scene.directory / "s_server"
    files: list[str | Path] = ["-key", key, "-cert", scene.web.home / "chain.pem", "-cert_chain", authority]
    with log.open("wb") as output:
        server = subprocess.Popen(
            ["openssl", "s_server", "-accept", "127.0.0.1:0", "-www", *files], stdout=output, stderr=output
        )
    scene.tour.resources.callback(server.wait)
    scene.tour.resources.callback(server.kill)
    wait_for(lambda: "ACCEPT" in log.read_text(), "openssl s_server accepts connections")
    port = int(re.findall(r"ACCEPT 127\.0\.0\.1:([0-9]+)", log.read_text())[0])
    context = ssl.create_default_context(cafile=str(authority))
    with (
        socket.create_connection(("127.0.0.1", port), timeout=HANDSHAKE_S) as raw,
        context.wrap_socket(raw, server_hostname="localhost") as tls,
    ):
        certificate = x509.load_der_x509_certificate(tls.getpeercert(binary_form=True) or b"")
        protocol = tls.version()
    seen = certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    deposited = scene.newest("www", scene.site.requests)["key"]
    expect(sha256(seen).hexdigest() == deposited, "the server has another key")
    return {"protocol": protocol, "key": deposited[:16]}


def lost_disk(scene: Scene) -> None:
    """Token, SSH key and all that the owner's machine knew are gone."""
    tour, at = scene.tour, scene.site.requests
    found = scene.directory / "found-key"
    with tour.step("disk-lost", "the owner's disk is gone: token, SSH key, profile, what was seen") as seen:
        shutil.copy(scene.owner.identity, found)
        kept = [*scene.owner.configuration.iterdir(), scene.owner.home / "token"]
        shutil.rmtree(scene.owner.home)
        seen["lost"] = sorted(path.name for path in kept)
    with tour.step(
        "enrolled-anew", "on another machine, the owner is enrolled anew, with another SSH key"
    ) as seen:
        scene.owner = Machine(scene.directory / "anna-again")
        scene.enroll(scene.owner, OWNER, "owner", at)
        expect(scene.owner.identity.read_bytes() != found.read_bytes(), "it is the same SSH key")
        seen["records"] = sorted(scene.state(at))
    with tour.step(
        "old-key-revoked", "an operator revokes the lost SSH key, which is refused from now on"
    ) as seen:
        scene.operator.hsmd("client", "revoke", "--key", public_line(found), at=at)
        done = scene.owner.run("vault", "list", "--identity", found, at=at)
        expect(done.returncode != 0, "it still logs in")
        seen["refused"] = json.loads(done.stdout)["error"]["text"]
    with tour.step("no-management-key", "the new SSH key alone takes nothing out") as seen:
        failed = scene.owner.hsmd("vault", "get", "www", "--output", "www.pem", at=at, code=REFUSED)
        seen["refused"] = failed["error"]["text"].split(";")[0]
    with tour.step(
        "recovered", "with the second copy of the management key, the owner takes the same key out"
    ) as seen:
        file = scene.owner.home / "www.pem"
        got = scene.get("www", file)
        expect(file.read_bytes() == (scene.web.home / "key.pem").read_bytes(), "it is another key")
        seen |= {"key": got["key"][:16], "released": got["released"]}


def public_line(identity: Path) -> str:
    """The public half of an SSH key, as OpenSSH writes it."""
    key = load_ssh_private_key(identity.read_bytes(), None)
    return key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()


def checks(scene: Scene) -> None:
    """Application servers ask whether a public key is the owner's."""
    tour, at = scene.tour, scene.site.requests
    with tour.step("checkers", "three application servers log in; the owner lets web and shop check") as seen:
        servers = {"web": scene.web, "shop": scene.shop, "mail": scene.mail}
        for name, machine in servers.items():
            scene.enroll(machine, name, "checker", at)
        for name in ("web", "shop"):
            scene.as_owner("vault", "allow", name)
        seen["allowed"] = scene.owner.hsmd("vault", "allowed", at=at)["clients"]
    with tour.step(
        "check-match", "shop asks about the key that the web server uses: it is the owner's, and usable"
    ) as seen:
        seen |= scene.check(scene.shop, scene.public_keys["www"], MATCH, "match")
    with tour.step("check-mismatch", "about another key: it is not the owner's") as seen:
        foreign = scene.directory / "foreign.pub"
        foreign.write_bytes(
            ec.generate_private_key(ec.SECP256R1())
            .public_key()
            .public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
        )
        seen |= scene.check(scene.web, foreign, MISMATCH, "mismatch")
    with tour.step(
        "check-no-answer", "mail, whom the owner has not allowed, gets no answer to either"
    ) as seen:
        seen |= scene.check(scene.mail, scene.public_keys["www"], NO_ANSWER, "no-answer")
        scene.check(scene.mail, foreign, NO_ANSWER, "no-answer")


def use_limit(scene: Scene) -> None:
    """A record reaches its maximum; the shop follows the events."""
    tour, at = scene.tour, scene.site.requests
    follower = Follower(scene, scene.shop, "shop")
    with tour.step("uses", f"the key of the shop is taken out {USES} times, and refused then") as seen:
        left = [scene.get("shop", scene.owner.home / f"shop-{n}.pem")["uses_left"] for n in range(USES)]
        expect(left == [1, 0], f"the uses left were {left}")
        failed = scene.as_owner("vault", "get", "shop", "--output", "one-more.pem", code=REFUSED)
        seen |= {"refused": failed["error"]["text"], "uses": scene.uses("shop", at)}
    with tour.step("uses-told", "the shop, which follows the events, is told of both, once") as seen:
        kinds = ["vault.exhausted", "vault.over-use"]
        wait_for(lambda: len(follower.about("shop")) >= len(kinds), "both events")
        told = follower.about("shop")
        expect([one["kind"] for one in told] == kinds, f"seen instead: {told}")
        seen |= {"kinds": kinds, "given": told[-1]["payload"]["given"]}
    with tour.step("uses-checked", "and a check says: the owner's, but not usable") as seen:
        seen |= scene.check(scene.shop, scene.public_keys["shop"], UNUSABLE, "match")
    follower.stop()


def term(scene: Scene) -> None:
    """The term of a record ends."""
    tour, at = scene.tour, scene.site.deposits
    follower = Follower(scene, scene.web, "web")
    with tour.step("short-term", f"a key is deposited for {TERM.seconds} s") as seen:
        end = datetime.now(UTC) + TERM
        made = scene.as_owner("vault", "generate", "short", "--not-after", f"{end:%Y-%m-%dT%H:%M:%SZ}", at=at)
        publish(scene, "short", made)
        seen["not_after"] = made["not_after"]
    with tour.step(
        "expiry-told", "web, which follows the events, is told before the end and at the end"
    ) as seen:
        wait_for(lambda: any(one["kind"] == "vault.expired" for one in follower.about("short")), "the end")
        told = follower.about("short")
        thresholds = [one["payload"]["threshold"] for one in told]
        expect(len(set(thresholds)) == len(thresholds), f"one was told twice: {thresholds}")
        seen |= {"thresholds": thresholds, "left_s": [one["payload"]["left_s"] for one in told]}
    with tour.step("expired", "it is not given out any more, and a check says why it is not usable") as seen:
        failed = scene.as_owner("vault", "get", "short", "--output", "short.pem", code=REFUSED)
        seen["refused"] = failed["error"]["text"]
        seen |= scene.check(scene.web, scene.public_keys["short"], UNUSABLE, "match")
    follower.stop()


if __name__ == "__main__":
    main("vault", run, flags=("--postgresql",), longest_s=LONGEST_S)
