"""The generated OpenSSL configuration beside that of a site: what the site sets stays in force, in real OpenSSL programs."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from hsmd.cli.agent.servers import plan
from hsmd.cli.agent.servers.plan import Request
from hsmd.client import keyref
from hsmd.provider import openssl_configuration
from tests.support.fake_agent import Agent
from tests.support.network import free_port
from tests.support.polling import wait_until
from tests.support.provider import Environment, Identity

HOST = "127.0.0.1"
TLS13_ONLY = """openssl_conf = site
[site]
ssl_conf = site_ssl
[site_ssl]
system_default = site_tls
[site_tls]
MinProtocol = TLSv1.3
Options = -SessionTicket
"""
SITES = {
    "nothing": "",
    "Debian's": "openssl_conf = openssl_init\n[openssl_init]\n",
    "providers without the default one": "openssl_conf = site\n[site]\nproviders = list\n[list]\n",
    "default provider not activated": (
        "openssl_conf = site\n[site]\nproviders = list\n[list]\ndefault = own\n[own]\n# activate = 1\n"
    ),
    "further provider": (
        "openssl_conf = site\n[site]\nproviders = list\n[list]\ndefault = own\nlegacy = old\n[own]\nactivate = 1\n"
        "[old]\nactivate = 1\n"
    ),
    "settings of TLS": TLS13_ONLY,
    "names with prefixes, in an included file": ".include {other}\n",
}
OTHER = "openssl_conf = site\n[site]\nproviders = list\n[list]\n1.default = own\n[own]\nactivate = yes\n"


@pytest.fixture
def configured(environment: Environment, tmp_path: Path) -> Path:
    """Where a test writes the generated configuration."""
    return tmp_path / "generated.cnf"


def generate(environment: Environment, site: str) -> str:
    """The text for a site with this configuration."""
    file, other = environment.directory / "site.cnf", environment.directory / "other.cnf"
    other.write_text(OTHER)
    file.write_text(site.replace("{other}", str(other)))
    return openssl_configuration(str(environment.socket), 2000, environment.module, str(file))


def providers(environment: Environment, configuration: Path) -> list[str]:
    """The providers that OpenSSL loads, sorted by name."""
    listed = environment.run(["openssl", "list", "-providers"], configuration)
    assert listed.returncode == 0, listed.stderr
    return re.findall(r"^  (\S+)$", listed.stdout, re.MULTILINE)


@pytest.mark.parametrize("site", SITES)
def test_keys_work_beside_any_configuration_of_the_site(
    environment: Environment, agent: Agent, identities: dict[str, Identity], configured: Path, site: str
) -> None:
    configured.write_text(generate(environment, SITES[site]))
    expected = ["default", "hsmd", *(["legacy"] if site == "further provider" else [])]
    assert providers(environment, configured) == expected
    identity = identities["p256"]
    case = {"certificate": str(identity.certificate), "trust": str(identity.certificate)}
    [outcome] = environment.handshakes(
        [case | {"key": str(identity.reference), "version": "1.3"}], configured
    )
    assert outcome.get("version") == "TLSv1.3"
    made = environment.run(["openssl", "genpkey", "-algorithm", "EC", "-pkeyopt", "group:P-256"], configured)
    assert "BEGIN PRIVATE KEY" in made.stdout


def test_the_tls_settings_of_the_site_stay(
    environment: Environment, agent: Agent, identities: dict[str, Identity], configured: Path
) -> None:
    configured.write_text(generate(environment, TLS13_ONLY))
    identity = identities["p256"]
    with pytest.raises(AssertionError, match="no cipher"):
        negotiate(configured, identity, identity.reference, "-tls1_2")
    assert negotiate(configured, identity, identity.reference, "-tls1_3").startswith("TLS_")


def test_algorithm_properties_of_the_site_stay(
    environment: Environment, agent: Agent, configured: Path
) -> None:
    site = "openssl_conf = site\n[site]\nalg_section = evp\n[evp]\ndefault_properties = provider=nothing\n"
    configured.write_text(generate(environment, site))
    done = environment.run(["openssl", "dgst", "-sha256", "/dev/null"], configured)
    assert done.returncode != 0, "the site's property query excludes every provider"


def test_a_fips_site_keeps_its_choice_of_providers(environment: Environment) -> None:
    site = "openssl_conf = site\n[site]\nproviders = list\n[list]\nfips = f\nbase = b\n[f]\nactivate = 1\n[b]\nactivate = 1\n"
    assert "default = " not in generate(environment, site).replace("system_default = ", "")


@pytest.mark.parametrize(
    ("site", "message"),
    [
        ("[unfinished\n", r"line 1 of .*site\.cnf"),
        ("openssl_conf = a\n[a]\nproviders = b\n[b]\nhsmd = c\n", "loads the provider itself"),
    ],
)
def test_a_configuration_that_cannot_be_extended_is_refused(
    environment: Environment, site: str, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        generate(environment, site)


@pytest.mark.parametrize("preferred", ["AES128-GCM-SHA256", "DHE-RSA-AES128-GCM-SHA256"])
def test_a_client_that_prefers_what_a_signing_key_cannot_do_gets_ecdhe(
    environment: Environment, agent: Agent, identities: dict[str, Identity], preferred: str
) -> None:
    """With the list that `agent install` writes; otherwise OpenSSL takes the client's first cipher, and the handshake fails."""
    identity = identities["rsa"]
    ciphers = ("-tls1_2", "-cipher", f"{preferred}:ECDHE-RSA-AES128-GCM-SHA256")
    configuration = environment.configuration()
    listed = ("-cipher", Request((), Path(), Path(), Path(), kinds={"www": "signs with RSA"}).ciphers("www"))
    chosen = negotiate(configuration, identity, identity.reference, *ciphers, server=listed)
    assert chosen == "ECDHE-RSA-AES128-GCM-SHA256"
    plain = environment.directory / "plain.cnf"
    plain.write_text("")
    assert negotiate(plain, identity, identity.private, *ciphers) == preferred, "the client's own choice"


def test_without_these_settings_the_decrypting_key_is_asked_to_sign(
    environment: Environment, agent: Agent, identities: dict[str, Identity]
) -> None:
    """The control: the client's preference decides which key TLS 1.3 uses."""
    signs, decrypts = identities["p256"], identities["rsa"]
    second = ("-dcert", str(decrypts.certificate), "-dkey", str(decrypts.reference))
    preference = ("-tls1_3", "-sigalgs", "rsa_pss_rsae_sha256:ecdsa_secp256r1_sha256")
    negotiate(environment.configuration(), signs, signs.reference, *preference, server=second)
    assert [request.key for request in agent.requests] == [
        keyref.decode(decrypts.reference.read_text()).digest
    ]


def negotiate(
    configuration: Path, identity: Identity, key: Path, *options: str, server: tuple[str, ...] = ()
) -> str:
    """The cipher suite between `openssl s_server` with this configuration and `openssl s_client` without it."""
    port = free_port(HOST)
    with subprocess.Popen(
        [
            "openssl",
            "s_server",
            "-accept",
            f"{HOST}:{port}",
            "-cert",
            identity.certificate,
            "-key",
            key,
            *server,
        ],
        env={"PATH": "/usr/bin:/bin", "OPENSSL_CONF": str(configuration)},
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as running:
        client = ["openssl", "s_client", "-connect", f"{HOST}:{port}", *options]
        shown: list[str] = []

        def answered() -> bool:
            assert running.poll() is None, "s_server has ended"
            done = subprocess.run(client, input="", capture_output=True, text=True, timeout=20, check=False)
            shown[:] = [done.stdout]
            return "connect:errno" not in done.stderr

        try:
            wait_until(answered, "s_server answers")
        finally:
            running.kill()
    found = re.search(r"^New, \S+, Cipher is (\S+)$", shown[0], re.MULTILINE)
    assert found and found[1] != "(NONE)", "no cipher"
    return found[1]


MIXED = ("-cipher", plan.DECRYPTING_CIPHERS, "-sigalgs", plan.DECRYPTING_SIGNATURES)
"""What `agent install` writes for a key that only decrypts, so that another one on its port can sign."""


@pytest.mark.parametrize(
    ("options", "chosen"),
    [
        (("-tls1_3", "-sigalgs", "rsa_pss_rsae_sha256:ecdsa_secp256r1_sha256"), 1),
        (("-tls1_2", "-cipher", "ECDHE-RSA-AES128-GCM-SHA256:ECDHE-ECDSA-AES128-GCM-SHA256"), 3),
        (("-tls1_2", "-cipher", "AES128-GCM-SHA256"), 5),
    ],
    ids=["prefers RSA signatures", "prefers ECDHE-RSA", "RSA key exchange alone"],
)
def test_a_decrypting_key_beside_one_that_signs_is_used_only_to_decrypt(
    environment: Environment,
    agent: Agent,
    identities: dict[str, Identity],
    options: tuple[str, ...],
    chosen: int,
) -> None:
    signs, decrypts = identities["p256"], identities["rsa"]
    second = ("-dcert", str(decrypts.certificate), "-dkey", str(decrypts.reference), *MIXED)
    negotiate(environment.configuration(), signs, signs.reference, *options, server=second)
    assert [request.purpose for request in agent.requests] == [chosen]
    digest = keyref.decode((decrypts if chosen == 5 else signs).reference.read_text()).digest
    assert agent.requests[0].key == digest
