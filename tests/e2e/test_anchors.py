"""The key of a CA is replaced by hand on real nodes: link, new anchor beside the old, new certificates, old anchor dropped.

nginx and a Python client authenticate each other all the time, with handshakes that are neither resumed nor repeated.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509

from hsmd.node import documents
from hsmd.protocol import messages
from tests.support import node_fleet
from tests.support.daemon import running_daemon
from tests.support.documents import operator_home
from tests.support.edge_prober import Prober
from tests.support.node_fleet import AUTHORITY, Fleet, FleetNode
from tests.support.polling import wait_until
from tests.support.processes import hsmd, run

pytestmark = pytest.mark.timeout(180)
NEXT = "root-2"
WITHIN_S = 60.0


@pytest.fixture
def directory() -> Iterator[Path]:
    """Which programs that give root up can enter, unlike those of pytest."""
    with tempfile.TemporaryDirectory(prefix="hsmd-anchors-") as made:
        Path(made).chmod(0o755)
        yield Path(made)


def command(node: FleetNode, *words: str | Path) -> tuple[int, str]:
    done = run(hsmd("node", *words, "--config", node.file))
    return done.returncode, done.stdout + done.stderr


def anchors_of(node: FleetNode) -> list[str]:
    kept = documents.read(node.files)
    assert kept is not None
    return [each.subject.rfc4514_string() for each in kept.anchors]


def a_round(prober: Prober) -> None:
    end = prober.handshakes + len(prober.edges) + prober.threads
    wait_until(lambda: prober.handshakes >= end, "a round of handshakes", WITHIN_S)


def certify_from_next(node: FleetNode) -> None:
    """Task C: the operator says from where, in the configuration of the node."""
    node.file.write_text(node.file.read_text().replace(f'authority = "{AUTHORITY}"', f'authority = "{NEXT}"'))


def next_authority(fleet: Fleet, home: Path) -> Path:
    """The authority of the reserved key, and the update that leads to it."""
    info: Any = fleet.daemon.ask(messages.CaShow(AUTHORITY)).authority
    limits = messages.AuthorityLimits(["server-client"], ["example.com"], path_length=1)
    fleet.daemon.ask(messages.CaInit(NEXT, "Example CA 2", limits, adopt=info.next_key))
    fleet.daemon.ask(messages.CaCrl(NEXT))
    for node in fleet.nodes.values():
        allow = messages.CaAllow(NEXT, node.name, "server-client", dns_names=[node.host], term_s=3_600)
        fleet.daemon.ask(allow)
    update = home / "root-2.update"
    done = run(
        hsmd("ca", "link", AUTHORITY, NEXT, "--out", update, "--profile", home / ".config/hsmd/operator.toml")
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return update


def test_the_key_of_a_ca_is_replaced_without_a_failed_handshake(directory: Path) -> None:
    with running_daemon(directory / "daemon") as daemon, ExitStack() as resources:
        fleet = Fleet(daemon, directory, 3_600)
        web, job = fleet.add("web1", "nginx"), fleet.add("job1", "client")
        fleet.configure(web, [web])
        fleet.configure(job, [web])
        operator_home(directory / "operator", daemon)
        assert command(web, "renew")[0] == 4, "nginx does not run yet"
        node_fleet.running(web, resources)
        assert command(job, "renew")[0] == 0
        update = next_authority(fleet, directory / "operator")
        old = documents.read(job.files)
        assert old is not None
        with Prober(fleet.edges(), per_second=20.0) as prober:
            a_round(prober)
            code, said = command(web, "anchor", "retire")
            assert (code, "no new anchor was taken" in said) == (1, True)
            for node in (web, job):
                code, said = command(node, "anchor", "add", update)
                assert code == 0, said
                assert anchors_of(node) == ["CN=Example CA 1", "CN=Example CA 2"]
            code, said = command(web, "anchor", "retire")
            assert (code, "renew it from the new authority first" in said) == (1, True)
            a_round(prober)
            for node in (web, job):
                certify_from_next(node)
                code, said = command(node, "renew")
                assert code == 0, said
                a_round(prober)
            for node in (web, job):
                code, said = command(node, "anchor", "retire")
                assert code == 0, said
                assert anchors_of(node) == ["CN=Example CA 2"]
                assert not (node.current / "update.der").exists()
            a_round(prober)
            assert command(web, "renew")[0] == 0
            a_round(prober)
        assert prober.failed == [], f"{len(prober.failed)} of {prober.handshakes}"
        (edge,) = [each for each in fleet.edges() if each.client == "job1"]
        documents.write(job.files, old.files(node_fleet.PROGRAMS["python"]), job_access())
        with pytest.raises((OSError, AssertionError)):
            edge.shake_hands()  # the old certificate, under the old anchor


def job_access() -> Any:
    from hsmd.deployment.version_directories import Access

    return Access()


def test_a_key_to_which_the_old_one_has_not_committed_is_not_taken(directory: Path) -> None:
    with running_daemon(directory / "daemon") as daemon:
        fleet = Fleet(daemon, directory, 3_600)
        job = fleet.add("job1", "client")
        fleet.configure(job, [])
        assert command(job, "renew")[0] == 0
        operator_home(directory / "operator", daemon)
        limits = messages.AuthorityLimits(["server-client"], ["example.com"], path_length=0)
        daemon.ask(messages.CaInit(NEXT, "Example CA 2", limits))
        update = directory / "other.update"
        profile = directory / "operator/.config/hsmd/operator.toml"
        linked = run(hsmd("ca", "link", AUTHORITY, NEXT, "--out", update, "--profile", profile))
        assert linked.returncode == 0, linked.stderr
        code, said = command(job, "anchor", "add", update)
        assert (code, "commit" in said) == (1, True), said
        assert anchors_of(job) == ["CN=Example CA 1"]
        (own,) = x509.load_pem_x509_certificates(daemon.ask(messages.CaShow(NEXT)).chain.encode())
        assert own.issuer == own.subject, "a link does not take the place of an authority's own certificate"
