"""scripts/tour ca: an authority with its key in a token, five servers and clients with a node each, renewal and revocation."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from temporary_machine import Machine
from tour_steps import Tour, expect, main, wait_for

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from tests.support import node_fleet
from tests.support.edge_prober import Edge, Prober
from tests.support.network import free_port
from tests.support.node_fleet import FleetNode

PROGRAMS = {"web": "nginx", "lb": "haproxy", "db": "postgresql", "job": "python", "ops": "curl"}
"""A node for each; the last two are clients."""
AUTHORITY = "issuing"
ROUND_S = 30.0
CURL_S = 20


@dataclass
class Scene:
    """The operator's machine and the nodes, each with a home of its own."""

    tour: Tour
    directory: Path
    operator: Machine
    nodes: dict[str, FleetNode] = field(default_factory=dict)
    machines: dict[str, Machine] = field(default_factory=dict)

    @property
    def servers(self) -> list[FleetNode]:
        return [node for node in self.nodes.values() if node.port]

    @property
    def clients(self) -> list[FleetNode]:
        return [node for node in self.nodes.values() if not node.port]

    def edges(self, *clients: FleetNode) -> list[Edge]:
        """Of these clients with every server."""
        return [
            Edge(
                client.name,
                client.current,
                server.name,
                server.port,
                server.host,
                node_fleet.SPEAKS[server.kind],
            )
            for client in clients
            for server in self.servers
        ]

    def node(self, name: str, *words: str | Path, code: int = 0) -> Any:
        """What a command of `hsmd node` prints on the machine of a node."""
        return self.machines[name].hsmd("node", *words, "--config", self.nodes[name].file, code=code)

    def every_node(self, *words: str) -> list[Any]:
        with ThreadPoolExecutor(len(self.nodes)) as threads:
            return list(threads.map(lambda name: self.node(name, *words), self.nodes))


def run(tour: Tour) -> None:
    """The steps in their order."""
    directory = Path(tour.resources.enter_context(TemporaryDirectory()))
    directory.chmod(0o755)  # servers that give root up read their files in it
    with tour.step("daemon", "a temporary daemon with a software token") as seen:
        daemon = tour.daemon("www:p-256:tls13-server")
        seen["address"] = daemon.address
    scene = Scene(tour, directory, Machine(directory / "operator", daemon.operator_profile))
    make_authorities(scene)
    enrol_nodes(scene)
    serve(scene)
    renew(scene)
    revoke(scene)
    verify(scene)


def make_authorities(scene: Scene) -> None:
    """A root, and an authority below it that certifies example.com."""
    operator = scene.operator
    with scene.tour.step("root", "a root is made in the token, with the key that will replace it") as seen:
        made = operator.hsmd(
            "ca", "init", "root", "--common-name", "Tour root 1", "--for", "server-client", "--dns", "example.com",
            "--below", "2", "--longest", "30d",
        )  # fmt: skip
        seen["next_key"] = made["authority"]["next_key"][:16]
    with scene.tour.step(
        "issuing", "an authority below it certifies servers and clients, for a day at most"
    ) as seen:
        operator.hsmd(
            "ca", "init", AUTHORITY, "--common-name", "Tour issuing 1", "--for", "server-client", "--dns", "example.com",
            "--below", "1", "--longest", "1d", "--longest-authority", "300d",
        )  # fmt: skip
        issued = operator.hsmd("ca", "issue", "root", AUTHORITY, "--for", "issuing")
        seen["until"] = issued["certificate"]["not_after"]
        for authority in ("root", AUTHORITY):
            operator.hsmd("ca", "crl", authority)
    with scene.tour.step("ceiling", "it certifies no other names, whoever asks"):
        refused = operator.run("ca", "issue", AUTHORITY, "www", "--dns", "www.example.org")
        expect(refused.returncode == 1, f"www.example.org: exit code {refused.returncode}")


def enrol_nodes(scene: Scene) -> None:
    """Each host registers with a one-time token, and gets what an operator has said."""
    with scene.tour.step("nodes", "five nodes get certificates for keys of their own") as seen:
        for name, kind in PROGRAMS.items():
            home = scene.directory / name
            scene.machines[name] = Machine(home)
            home.chmod(0o755)
            node = FleetNode(
                name, kind, home, free_port() if kind in node_fleet.SERVERS and name != "job" else 0
            )
            scene.nodes[name] = node
            node.reload.write_text("#!/bin/sh\nexit 0\n")
            node.reload.chmod(0o755)
        with ThreadPoolExecutor(len(PROGRAMS)) as threads:
            list(threads.map(lambda name: _enrol(scene, name), PROGRAMS))
        seen["nodes"] = [f"{name} ({kind})" for name, kind in PROGRAMS.items()]


def _enrol(scene: Scene, name: str) -> None:
    operator, node = scene.operator, scene.nodes[name]
    token = operator.hsmd("client", "enroll", name, "--role", "node")["token"]
    operator.hsmd(
        "ca", "allow", AUTHORITY, name, "--for", "server-client", "--dns", node.host, "--term", "1h"
    )
    (node.directory / "token").write_text(token)
    doors = [node] if node.port else scene.servers
    probes = [word for door in doors for word in ("--probe", f"127.0.0.1:{door.port}={door.host}")]
    owner = ("--owner", "postgres") if node.kind == "postgresql" and node_fleet.AS_ROOT else ()
    made = scene.node(
        name, "init", "--enroll", node.directory / "token", "--authority", AUTHORITY, "--program", node.kind,
        "--files", node.files, "--reload", str(node.reload), *owner, *(probes if node.port else ()),
    )  # fmt: skip
    expect(made["certificate"] is not None, f"{name} got no certificate: {made['problems']}")


def serve(scene: Scene) -> None:
    """Servers and clients use the files."""
    with scene.tour.step(
        "served", "nginx, HAProxy and PostgreSQL demand client certificates, and serve theirs"
    ) as seen:
        resources = scene.tour.resources.enter_context(ExitStack())
        for node in scene.servers:
            node_fleet.running(node, resources)
        for node in scene.servers:
            found = scene.node(node.name, "check")["handshakes"]
            expect(not any(each["error"] for each in found), f"{node.name}: {found}")
        for client in scene.clients:
            for edge in scene.edges(client):
                edge.shake_hands()
        expect(_curl(scene, "web") == "SUCCESS", "curl is not taken for a client with a certificate")
        seen["handshakes"] = len(scene.servers) + len(scene.edges(*scene.clients)) + 1


def _curl(scene: Scene, server: str) -> str:
    """What nginx says of the certificate of the node of curl."""
    node, files = scene.nodes[server], scene.nodes["ops"].current
    command = [
        "curl", "--silent", "--show-error", "--max-time", str(CURL_S), "--cacert", files / "anchors.pem", "--crlfile",
        files / "lists.pem", "--cert", files / "chain.pem", "--key", files / "key.pem",
        "--connect-to", f"{node.host}:{node.port}:127.0.0.1:{node.port}", f"https://{node.host}:{node.port}/",
    ]  # fmt: skip
    done = subprocess.run(
        list(map(str, command)), capture_output=True, text=True, timeout=CURL_S + 5, check=False
    )
    return done.stdout if done.returncode == 0 else done.stderr.strip()


def renew(scene: Scene) -> None:
    """All renew at once, under handshakes that are neither resumed nor tried again."""
    with scene.tour.step("renewed", "all five renew at once while handshakes are made") as seen:
        before = {name: _certificate(scene, name) for name in scene.nodes}
        with Prober(scene.edges(*scene.clients), per_second=20.0) as prober:
            _a_round(prober)
            scene.every_node("renew")
            _a_round(prober)
        after = {name: _certificate(scene, name) for name in scene.nodes}
        expect(all(after[name] != before[name] for name in after), "a certificate has not changed")
        seen |= {"handshakes": prober.handshakes, "failed": len(prober.failed)}
        expect(not prober.failed, f"{prober.failed[:3]}")


def _a_round(prober: Prober) -> None:
    end = prober.handshakes + len(prober.edges) + prober.threads
    wait_for(lambda: prober.handshakes >= end, "a round of handshakes", ROUND_S)


def _certificate(scene: Scene, name: str) -> str:
    return str(
        scene.machines[name].hsmd("node", "status", "--config", scene.nodes[name].file)["certificate"][
            "serial"
        ]
    )


def revoke(scene: Scene) -> None:
    """A revoked client is refused by every server, until it has a certificate for a new key."""
    job, ops = scene.nodes["job"], scene.nodes["ops"]
    with scene.tour.step("revoked", "the certificate of job is revoked, and every server refuses it") as seen:
        scene.operator.hsmd(
            "ca", "revoke", AUTHORITY, _certificate(scene, "job"), "--reason", "key-compromise"
        )
        for node in scene.servers:
            scene.node(node.name, "renew")
        wait_for(
            lambda: all(_is_refused(edge) for edge in scene.edges(job)), "every server refuses job", ROUND_S
        )
        seen["refused_by"] = [node.name for node in scene.servers]
    with scene.tour.step("others", "the other client is served as before"):
        for edge in scene.edges(ops):
            edge.shake_hands()
    with scene.tour.step("new-key", "the node of job notices, and gets a certificate for a new key"):
        key = (job.current / "key.pem").read_bytes()
        scene.node("job", "renew")
        expect((job.current / "key.pem").read_bytes() != key, "the key is the old one")
        for edge in scene.edges(job):
            edge.shake_hands()


def _is_refused(edge: Edge) -> bool:
    try:
        edge.shake_hands()
    except (OSError, AssertionError, IndexError):
        return True
    return False


def verify(scene: Scene) -> None:
    """Programs that share no code with hsmd, and the audit log."""
    web = scene.nodes["web"].current
    with scene.tour.step("openssl", "OpenSSL verifies chain and revocation lists") as seen:
        done = subprocess.run(
            ["openssl", "verify", "-x509_strict", "-crl_check_all", "-CAfile", web / "anchors.pem", "-CRLfile",
             web / "lists.pem", "-untrusted", web / "chain.pem", web / "chain.pem"],
            capture_output=True, text=True, timeout=CURL_S, check=False,
        )  # fmt: skip
        expect(done.returncode == 0, done.stderr.strip())
        seen["revoked"] = sum(
            each["revoked_at"] is not None
            for each in scene.operator.hsmd("ca", "list", AUTHORITY)["certificates"]
        )
    if shutil.which("certtool"):
        with scene.tour.step("gnutls", "GnuTLS verifies the chain"):
            done = subprocess.run(
                ["certtool", "--verify", "--load-ca-certificate", web / "anchors.pem", "--infile", web / "chain.pem"],
                capture_output=True, text=True, timeout=CURL_S, check=False,
            )  # fmt: skip
            expect(done.returncode == 0, (done.stderr + done.stdout).strip())
    with scene.tour.step(
        "audited", "each certificate is on the record of the node that asked for it"
    ) as seen:
        lines = scene.operator.run("audit", "tail", "--count", "500", "--no-follow").stdout.splitlines()
        asked = [each for each in map(json.loads, lines) if "node.certificate" in json.dumps(each)]
        seen["records"] = len(asked)
        expect({each["client"] for each in asked} == set(scene.nodes), "a node is missing")


if __name__ == "__main__":
    main("ca", run)
