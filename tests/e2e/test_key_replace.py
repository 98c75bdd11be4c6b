"""A served key is replaced under load: no handshake fails from the first step to the destruction of the old key."""

from __future__ import annotations

import ssl
from pathlib import Path

from cryptography import x509

from hsmd.protocol.messages import KeyShow
from tests.support.front_end import HOST, Nginx, Served
from tests.support.outages import every_signature_is_in_the_log
from tests.support.polling import wait_until
from tests.support.site import KeyPlan, Site
from tests.support.tls_load import Lane, Load

PLAN = KeyPlan("swap", "p-256", ("tls-server",))
LANES = tuple(Lane(PLAN.host, version, interval_s=0.05) for version in ("1.2", "1.3"))
MORE = 24
"""Handshakes in each stage."""


def test_no_handshake_fails_while_a_new_key_takes_over_a_name(site: Site, tmp_path: Path) -> None:
    """nginx runs, and is reloaded, with the old files after the switch; then it gets the new ones."""
    old = site.make_key(PLAN)
    files = site.agent.export(PLAN.name)
    nginx = site.second_nginx("swap", [Served(PLAN.host, *files)])
    since = site.daemon.log_size
    try:
        with Load((HOST, nginx.port), site.authority.file, [LANES], tmp_path / "load") as load:

            def stage() -> None:
                seen = len(load.samples())
                wait_until(lambda: len(load.samples()) >= seen + MORE, "handshakes go on")

            stage()
            request = x509.load_pem_x509_csr(site.daemon.command("key", "replace", PLAN.name)["pem"].encode())
            stage()
            chain = tmp_path / "chain.pem"
            chain.write_text(
                site.authority.issue(request.public_key(), PLAN.host) + site.authority.file.read_text()
            )
            switched = site.daemon.command("key", "replace", PLAN.name, "--certificate", chain)
            kept = switched["other"]["name"]
            assert site.daemon.ask(KeyShow(kept)).digest == old.digest
            stage()
            nginx.reload()  # with the old files
            stage()
            assert served(nginx) != leaf(chain.read_text())
            site.agent.export(PLAN.name)
            nginx.reload()
            assert served(nginx) == leaf(chain.read_text())
            stage()
            site.daemon.command("key", "replace", PLAN.name, "--finish", "--force", "--confirm", kept)
            stage()
            load.check()
        samples = load.samples()
    finally:
        nginx.stop()
        for path in files:
            path.unlink()
    assert [sample.error for sample in samples if sample.error] == []
    assert {use.key_name for use in site.daemon.uses(since)} >= {PLAN.name, kept}, "both keys were used"
    every_signature_is_in_the_log(site, since, samples)


def served(nginx: Nginx) -> x509.Certificate:
    """The certificate that nginx serves."""
    return leaf(ssl.get_server_certificate((HOST, nginx.port), timeout=5))


def leaf(chain_pem: str) -> x509.Certificate:
    return x509.load_pem_x509_certificate(chain_pem.encode())
