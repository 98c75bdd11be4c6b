"""A renewed certificate, and a new key for a name, reach a running nginx without a person and without a failed handshake.

What the path unit does is done here by the test: it runs the command when the agent says that something was switched. With the
unit itself: tests/e2e/test_hosts.py.
"""

from __future__ import annotations

import json
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import load_der_public_key

from hsmd.deployment.pair import leaf_digest
from hsmd.protocol.messages import CertificateImport, CertificateServed
from tests.support.front_end import HOST, Nginx, Served
from tests.support.polling import wait_until
from tests.support.processes import hsmd, run
from tests.support.site import CLIENT, KeyPlan, Site
from tests.support.tls_load import Lane, Load

SERVED_WITHIN_S = 10.0
NAME, KEY = "p256.test", "p256"


class Root:
    """What runs as root on the front end, for the agent and the nginx of the site."""

    def __init__(self, site: Site, directory: Path, nginx: Nginx) -> None:
        self.state = site.agent.directory / "agent"
        self.report = self.state / "installed.json"
        self.servers = directory / "servers.d"
        self.keys = site.agent.keys
        self.servers.mkdir(mode=0o755)
        (self.servers / "nginx.toml").write_text(f'command = ["/bin/kill", "-HUP", "{nginx.pids()[0]}"]\n')
        (self.servers / "nginx.toml").chmod(0o644)
        self.ran: list[dict[str, object]] = []

    def deploy(self) -> None:
        """Run the command once."""
        places = [
            "--state",
            self.state,
            "--keys",
            self.keys,
            "--servers",
            self.servers,
            "--report",
            self.report,
        ]
        done = run(hsmd("agent", "deploy", *places, "--json"))
        assert done.returncode == 0, done.stdout + done.stderr
        self.ran.append(json.loads(done.stdout))

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Run it whenever the agent has switched something, as hsmd-agent-deploy.path does."""
        stop = threading.Event()

        def watch() -> None:
            while not stop.wait(0.05):
                if (self.state / "certificates.switched").exists():
                    self.deploy()

        thread = threading.Thread(target=watch)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()


@pytest.fixture
def root(site: Site, tmp_path: Path) -> Root:
    return Root(site, tmp_path, site.nginx)


def presented(nginx: Nginx) -> str:
    """SHA-256 of the leaf that clients of the first name get."""
    pem = ssl.get_server_certificate((HOST, nginx.port), timeout=5)
    return leaf_digest(pem.encode())


def renew(site: Site) -> str:
    """Import a new certificate for the key; return the SHA-256 of it."""
    public_key = load_der_public_key(site.keys[KEY].public_key)
    chain = site.authority.issue(public_key, NAME)
    site.daemon.ask(CertificateImport(KEY, chain, force=True))  # without the root
    return leaf_digest(chain.encode())


def test_a_renewed_certificate_is_served_within_seconds_and_no_handshake_fails(
    site: Site, root: Root
) -> None:
    with (
        root.watching(),
        Load(
            (HOST, site.nginx.port),
            site.authority.file,
            [(Lane(NAME, "1.2", interval_s=0.05), Lane(NAME, "1.3", interval_s=0.05))],
            site.directory / "load",
        ) as load,
    ):
        wait_until(lambda: len(load.samples()) > 20, "handshakes are made")
        leaf = renew(site)
        began = time.monotonic()
        # For a moment the old worker processes of nginx accept connections beside the new ones.
        wait_until(lambda: presented(site.nginx) == leaf, "nginx presents the new certificate", 30)
        took_s = time.monotonic() - began
        served = time.monotonic()
        wait_until(lambda: len([one for one in load.samples() if one.began > served]) > 20, "and goes on")
        load.check()
    assert [sample.error for sample in load.samples() if sample.error] == []
    assert took_s < SERVED_WITHIN_S
    assert any(KEY in ran["installed"] and ran["reloaded"] == ["nginx"] for ran in root.ran)  # type: ignore[operator]
    reported(site, KEY, leaf)


def test_a_new_key_takes_over_a_name_and_no_handshake_fails(site: Site, tmp_path: Path) -> None:
    """From the switch until every front end has reported. A token that makes or destroys a key is busy, so that is done apart."""
    name = "handover.test"
    site.make_key(KeyPlan("handover", "p-256", ("tls-server",)))
    files = site.agent.export("handover")
    request = x509.load_pem_x509_csr(site.daemon.command("key", "replace", "handover")["pem"].encode())
    chain = tmp_path / "chain.pem"
    chain.write_text(site.authority.issue(request.public_key(), name) + site.authority.file.read_text())
    leaf = leaf_digest(chain.read_bytes())
    nginx = site.second_nginx("handover", [Served(name, *files)])
    root = Root(site, tmp_path, nginx)
    lanes = (Lane(name, "1.2", interval_s=0.05), Lane(name, "1.3", interval_s=0.05))
    try:
        with (
            root.watching(),
            Load((HOST, nginx.port), site.authority.file, [lanes], tmp_path / "load") as load,
        ):
            wait_until(lambda: len(load.samples()) > 20, "handshakes are made")
            old = site.daemon.command("key", "replace", "handover", "--certificate", chain)["other"]["name"]
            took_s = wait_until(lambda: presented(nginx) == leaf, "nginx presents the new key", 30)
            reported(site, "handover", leaf)
            load.check()
        assert [sample.error for sample in load.samples() if sample.error] == []
        assert took_s < SERVED_WITHIN_S
        site.daemon.command("key", "replace", "handover", "--finish", "--confirm", old)
        site.handshake(name, nginx=nginx)
    finally:
        nginx.stop()
        site.daemon.command("key", "destroy", "handover", "--confirm", "handover")
        for path in files:
            path.unlink()


def reported(site: Site, key: str, leaf: str) -> None:
    """The daemon knows what this front end serves."""

    def current() -> bool:
        page = site.daemon.ask(CertificateServed(key))
        return [(each.state, each.certificate) for each in page.clients if each.client == CLIENT] == [
            ("current", leaf)
        ]

    wait_until(current, "the front end has reported what it serves")
