"""`hsmd agent install`: what it writes for each server below --root, and how that is taken back."""

from __future__ import annotations

import hashlib
import json
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from msgspec.structs import replace

from hsmd import provider
from hsmd.agent import config as agent_config
from hsmd.cli.agent import check_agent
from hsmd.cli.agent.servers import agent_users
from hsmd.cli.base.errors import CommandError
from hsmd.client import keyref
from hsmd.protocol.messages import KeyInfo
from hsmd.system import host_users
from tests.support.cli import Ran, Run
from tests.support.terminal import run_in_terminal

ENVVARS = "export APACHE_RUN_USER=www-data\n"
ENVIRONMENT = "# variables\n"
AGENT = """[agent]
client = "web1"
identity = "/etc/hsmd/agent_ed25519"
[defaults]
users = ["www-data"]  # servers
[[daemon]]
address = "10.9.0.1:7440"
host_keys = ["ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIIy2wz6cipyHlUlxaUp5RUJ/yHqBk2/jr7YXkA9ghGC9"]
"""
HAPROXY = "global\n chroot /var/lib/haproxy\n user haproxy\n group haproxy\ndefaults\n"
FILES = {
    "etc/apache2/envvars": ENVVARS,
    "etc/postgresql/15/main/postgresql.conf": "",
    "etc/postgresql/15/main/environment": ENVIRONMENT,
    "etc/hsmd/agent.toml": AGENT,
    "etc/hsmd/keys/www.pem": "chain\n",
    "etc/hsmd/keys/www.key": "reference\n",
    "etc/haproxy/haproxy.cfg": HAPROXY,
    "etc/ssl/openssl.cnf": "openssl_conf = site\n[site]\n",
}
RUN_WITH_MODULE = """
from pathlib import Path
from hsmd import cli, provider
provider.module_path = lambda: Path("/opt/hsmd/hsmd.so")
cli.main()
"""
USERS = {"nginx": "www-data", "haproxy": "haproxy", "apache": "www-data", "postgresql": "postgres"}


@pytest.fixture
def root(home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A root file system with the files of the servers' packages, an agent, and an exported key."""
    monkeypatch.setattr(provider, "module_path", lambda: Path("/opt/hsmd/hsmd.so"))
    accounts = {name: host_users.Account(name, 1234, 0, Path("/")) for name in USERS.values()}
    monkeypatch.setattr(host_users, "find", accounts.get)
    made = home / "image"
    for name, text in FILES.items():
        (made / name).parent.mkdir(parents=True, exist_ok=True)
        (made / name).write_text(text)
    return made


def install(run: Run, server: str, root: Path, *options: str, key: str = "www") -> Ran:
    keys = () if "--remove" in options else ("--key", key)
    paths = ("--config", "/etc/hsmd/agent.toml", "--socket", "/run/hsmd/agent.sock", "--root", str(root))
    user = () if "--remove" in options else ("--user", USERS.get(server, "www-data"))
    return run("agent", "install", server, *keys, *paths, *user, *options)


def tree(root: Path) -> dict[str, str]:
    """The files below `root` by name, and where links lead."""
    return {
        str(path.relative_to(root)): f"-> {path.readlink()}" if path.is_symlink() else path.read_text()
        for path in sorted(root.rglob("*"))
        if path.is_symlink() or path.is_file()
    }


@pytest.mark.parametrize("server", USERS)
def test_what_is_installed_is_taken_back_to_the_last_byte(run: Run, root: Path, server: str) -> None:
    ran = install(run, server, root)
    assert ran.code == 0, ran.err
    assert tree(root) != FILES
    assert "+++ " in ran.err, "the difference is shown"
    again = install(run, server, root)
    assert (again.code, "installed already" in again.out) == (0, True)
    removed = install(run, server, root, "--remove")
    assert removed.code == 0, removed.err
    assert tree(root) == FILES
    assert not (root / "etc/hsmd/haproxy").exists() and not (root / "etc/hsmd/installed").exists()
    assert install(run, server, root, "--remove").code == 1


def test_haproxy_gets_its_names_and_the_socket_in_its_chroot(run: Run, root: Path) -> None:
    assert install(run, "haproxy", root).code == 0
    made = tree(root)
    assert made["etc/hsmd/haproxy/www.pem"] == "-> ../keys/www.pem"
    assert made["etc/hsmd/haproxy/www.pem.key"] == "-> ../keys/www.key"
    assert (root / "etc/hsmd/haproxy/www.pem.key").read_text() == "reference\n"
    unit = made["etc/systemd/system/haproxy.service.d/hsmd.conf"]
    assert "\nBindReadOnlyPaths=-/run/hsmd:/var/lib/haproxy/run/hsmd\n" in unit
    assert "\nEnvironment=OPENSSL_CONF=/etc/hsmd/openssl.cnf\n" in unit
    assert 'users = ["www-data", "haproxy"]  # servers\n' in made["etc/hsmd/agent.toml"]


def test_postgresql_gets_files_that_only_its_group_may_read(run: Run, root: Path) -> None:
    assert install(run, "postgresql", root).code == 0
    made = tree(root)
    assert made["etc/hsmd/postgresql/www.key"] == "reference\n"
    assert (root / "etc/hsmd/postgresql/www.key").stat().st_mode & 0o777 in (0o640, 0o600)
    assert "OPENSSL_CONF = '/etc/hsmd/openssl.cnf'\n" in made["etc/postgresql/15/main/environment"]
    assert "ssl_key_file = '/etc/hsmd/postgresql/www.key'" in made["etc/postgresql/15/main/conf.d/hsmd.conf"]
    (root / "etc/hsmd/postgresql/www.pem").write_text("renewed\n")
    assert install(run, "postgresql", root, "--remove").code == 0
    assert tree(root) == FILES, "what renewals have replaced is removed, too"


def test_a_second_cluster_must_be_named(run: Run, root: Path) -> None:
    for name in ("postgresql.conf", "environment"):
        (root / "etc/postgresql/15/two").mkdir(exist_ok=True)
        (root / "etc/postgresql/15/two" / name).touch()
    ran = install(run, "postgresql", root)
    assert (ran.code, "15/main, 15/two" in ran.err) == (2, True)
    assert install(run, "postgresql", root, "--cluster", "15/two").code == 0
    assert (root / "etc/systemd/system/postgresql@15-two.service.d/hsmd.conf").exists()


def test_servers_share_what_they_need(run: Run, root: Path) -> None:
    for server in USERS:
        assert install(run, server, root).code == 0
    listed = ("etc/hsmd/openssl.cnf", "etc/hsmd/agent.toml")
    assert '["www-data", "haproxy", "postgres"]' in tree(root)[listed[1]]
    for server in ("postgresql", "nginx", "haproxy"):
        ran = install(run, server, root, "--remove")
        assert (ran.code, "Kept /etc/hsmd/openssl.cnf" in ran.out) == (0, True)
    assert tree(root)[listed[1]] == AGENT
    assert install(run, "apache", root, "--remove").code == 0
    assert tree(root) == FILES


def test_two_keys_of_one_server(run: Run, root: Path) -> None:
    assert install(run, "nginx", root).code == 0
    assert install(run, "nginx", root, key="shop").code == 0
    assert 'keys = ["shop", "www"]' in tree(root)["etc/hsmd/servers.d/nginx.toml"]
    assert install(run, "nginx", root, "--remove").code == 0
    assert tree(root) == FILES


@pytest.mark.parametrize(
    ("server", "path", "text"),
    [
        ("nginx", "etc/nginx/snippets/hsmd-www.conf", "mine\n"),
        ("nginx", "etc/hsmd/openssl.cnf", "mine\n"),
        ("apache", "etc/apache2/envvars", "# hsmd agent install apache: begin\nmine\n"),
        (
            "postgresql",
            "etc/postgresql/15/main/environment",
            "# hsmd agent install postgresql: begin\nmine\n",
        ),
    ],
)
def test_a_file_that_was_changed_since_is_named_and_nothing_is_removed(
    run: Run, root: Path, server: str, path: str, text: str
) -> None:
    assert install(run, server, root).code == 0
    (root / path).write_text(text)
    before = tree(root)
    ran = install(run, server, root, "--remove")
    assert (ran.code, f"{path} was changed since it was installed" in ran.err) == (1, True)
    again = install(run, server, root)
    assert (again.code, f"{path} was changed since" in again.err) == (1, True)
    assert tree(root) == before
    if server == "nginx":
        assert install(run, server, root, "--yes").code == 0
        assert install(run, server, root, "--remove").code == 0
        assert tree(root) == FILES


def test_what_is_added_beside_a_block_stays(run: Run, root: Path) -> None:
    assert install(run, "apache", root).code == 0
    envvars = root / "etc/apache2/envvars"
    envvars.write_text(f"export FIRST=1\n{envvars.read_text()}export LAST=1\n")
    assert install(run, "apache", root, "--remove").code == 0
    assert envvars.read_text() == f"export FIRST=1\n{ENVVARS}export LAST=1\n"


def test_a_server_that_sets_the_configuration_itself_is_refused(run: Run, root: Path) -> None:
    (root / "etc/apache2/envvars").write_text("export OPENSSL_CONF=/etc/mine.cnf\n")
    before = tree(root)
    ran = install(run, "apache", root)
    assert (ran.code, "--site" in ran.err, tree(root) == before) == (1, True, True)


def test_the_keys_of_before_are_installed_again(run: Run, root: Path) -> None:
    """As after an upgrade, when paths may have changed."""
    assert install(run, "nginx", root).code == 0
    (root / "etc/nginx/snippets/hsmd-www.conf").unlink()
    again = run(
        "agent",
        "install",
        "nginx",
        "--config",
        "/etc/hsmd/agent.toml",
        "--socket",
        "/run/hsmd/agent.sock",
        "--root",
        str(root),
    )
    assert (again.code, "hsmd-www.conf" in again.out) == (0, True)
    assert install(run, "nginx", root, "--remove").code == 0
    assert tree(root) == FILES


@pytest.mark.parametrize(("answer", "status"), [("n", 1), ("y", 0)])
def test_on_a_terminal_the_difference_is_shown_and_nothing_is_written_without_a_yes(
    root: Path, home: Path, answer: str, status: int
) -> None:
    (root / "etc/hsmd/agent.toml").unlink()
    command = [
        sys.executable,
        "-c",
        RUN_WITH_MODULE,
        "agent",
        "install",
        "nginx",
        "--key",
        "www",
        "--socket",
        "/run/a.sock",
    ]
    code, shown = run_in_terminal(
        [*command, "--config", "/etc/hsmd/agent.toml", "--root", str(root)],
        [("Change these files?", answer)],
        environment={"PATH": "/usr/bin:/bin", "HOME": str(home)},
        cwd=home,
    )
    assert code == status
    assert shown.index("ssl_certificate_key /etc/hsmd/keys/www.key;") < shown.index("Change these files?")
    assert (root / "etc/nginx/snippets/hsmd-www.conf").exists() == (answer == "y")


def test_print_writes_nothing(run: Run, root: Path) -> None:
    ran = install(run, "haproxy", root, "--print", "--json")
    files = {file["path"]: file["content"] for file in json.loads(ran.out)["files"]}
    assert files["/etc/hsmd/haproxy/www.pem"] == "../keys/www.pem"
    assert '"haproxy"' in files["/etc/hsmd/agent.toml"]
    assert tree(root) == FILES


@pytest.mark.parametrize("server", USERS)
def test_the_printed_steps_set_the_configuration_for_commands_of_a_shell(
    run: Run, root: Path, server: str
) -> None:
    """Apache's and PostgreSQL's own commands read the files that were changed."""
    steps = install(run, server, root).err
    for command in ("nginx -t &&", "haproxy -c -f"):
        assert command not in steps or f"OPENSSL_CONF=/etc/hsmd/openssl.cnf {command}" in steps
    assert f"--server {server}" in steps


def test_the_printed_steps_say_what_hooks_that_call_nginx_need(run: Run, root: Path) -> None:
    """Such as those of ACME clients: nginx reads the configuration anew, with the variables of the shell."""
    steps = " ".join(install(run, "nginx", root).err.split())
    assert (
        "Hooks that call `nginx -s reload` or `nginx -t` themselves need OPENSSL_CONF=/etc/hsmd/openssl.cnf, too"
        in steps
    )


# --- what a key can serve ---

SIGNING = "HIGH:!aNULL:!MD5:!kRSA:!DHE"
DECRYPTING = "ECDHE+ECDSA:kRSA+AES"
SIGNATURES = "ECDSA+SHA256:ECDSA+SHA384:RSA+SHA256"
PLACES = {
    "nginx": (
        "etc/nginx/snippets/hsmd-www.conf",
        "ssl_ciphers {};",
        "ssl_conf_command SignatureAlgorithms {};",
    ),
    "apache": (
        "etc/apache2/conf-available/hsmd-www.conf",
        "SSLCipherSuite {}",
        "SSLOpenSSLConfCmd SignatureAlgorithms {}",
    ),
    "postgresql": ("etc/postgresql/15/main/conf.d/hsmd.conf", "ssl_ciphers = '{}'", ""),
    "haproxy": ("", "bind :443 ssl crt /etc/hsmd/haproxy/www.pem ciphers {}", ""),
}
"""The file in which each server is told, the line about cipher suites, and that about signatures; HAProxy's line is printed."""


def told(run: Run, root: Path, server: str) -> str:
    """What the server is told about the key www."""
    ran = install(run, server, root)
    assert ran.code == 0, ran.err
    path = PLACES[server][0]
    return (root / path).read_text() if path else ran.err


def export(root: Path, key: Any) -> KeyInfo:
    """Write the reference of a key as `hsmd agent export` does; return what an agent may show of it."""
    public = key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    (root / "etc/hsmd/keys/www.key").write_text(keyref.encode(keyref.KeyReference("www", public)))
    digest = hashlib.sha256(public).hexdigest()
    return KeyInfo("www", "rsa-2048", digest, public, ["tls-server"], "main", datetime.now(UTC))


@pytest.mark.parametrize("server", USERS)
def test_an_rsa_key_that_signs_offers_no_suites_in_which_it_would_decrypt(
    run: Run, root: Path, server: str
) -> None:
    """Also while no agent answers that could tell what the key is for."""
    export(root, rsa.generate_private_key(65537, 2048))
    lines = told(run, root, server)
    assert PLACES[server][1].format(SIGNING) in lines
    assert "SignatureAlgorithms" not in lines


@pytest.mark.parametrize("server", USERS)
def test_an_rsa_key_that_only_decrypts_offers_no_suites_in_which_it_would_sign(
    run: Run, root: Path, server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    info = replace(export(root, rsa.generate_private_key(65537, 2048)), purposes=["tls12-rsa-premaster"])
    monkeypatch.setattr(check_agent, "shown", lambda socket, names: {"www": info})
    lines = told(run, root, server)
    _, suites, signatures = PLACES[server]
    assert suites.format(DECRYPTING) in lines
    assert signatures.format(SIGNATURES) in lines


@pytest.mark.parametrize("server", USERS)
def test_a_p256_key_serves_all_suites_that_are_chosen_for_it(run: Run, root: Path, server: str) -> None:
    info = export(root, ec.generate_private_key(ec.SECP256R1()))
    assert info.public_key
    lines = told(run, root, server)
    assert "iphers" not in lines and "CipherSuite" not in lines and "SignatureAlgorithms" not in lines


# --- the site's OpenSSL configuration ---


@pytest.mark.parametrize("site", ["/etc/ssl/openssl.cnf", "/etc/ssl/other.cnf"])
def test_the_sites_openssl_configuration_is_included_and_its_section_extended(
    run: Run, root: Path, site: str
) -> None:
    (root / "etc/ssl/other.cnf").write_text("openssl_conf = of_other\n[of_other]\n")
    options = ("--site", site) if "other" in site else ()
    ran = install(run, "openssl", root, *options)
    assert ran.code == 0, ran.err
    made = tree(root)["etc/hsmd/openssl.cnf"]
    assert f".include {site}\n" in made
    section = "of_other" if "other" in site else "site"
    assert f"\n[{section}]\n" in made
    assert str(root) not in made


# --- users in agent.toml ---

PATH = Path("/etc/hsmd/agent.toml")


@pytest.mark.parametrize(
    "text",
    [
        AGENT,
        AGENT.replace('[defaults]\nusers = ["www-data"]  # servers\n', ""),
        AGENT.replace('users = ["www-data"]  # servers\n', ""),
        AGENT + "[keys.www]\nusers = []\n",
        AGENT + '[keys."www"]\nusers = ["root"]\n',
    ],
)  # fmt: skip
def test_a_user_is_added_and_removed(text: str) -> None:
    added = agent_users.add(PATH, text, "daemon", "www")
    uid = host_users.uid_of("daemon")
    assert uid is not None
    assert agent_config.parse(added).rules.allow(uid, "www")
    assert agent_users.add(PATH, added, "daemon", "www") == added
    removed = agent_users.remove(PATH, added, "daemon", agent_users.table_of(text, "www"))
    assert not agent_config.parse(removed).rules.allow(uid, "www")
    assert removed == text or "users" not in text


def test_users_that_only_an_editor_can_change_are_refused() -> None:
    text = AGENT.replace('["www-data"]', '[\n  "www-data",\n]')
    with pytest.raises(CommandError, match=r"add haproxy to `users` in its table \[defaults\]"):
        agent_users.add(PATH, text, "haproxy", "www")
    everyone = AGENT.replace('"www-data"', '"*"')
    assert agent_users.add(PATH, everyone, "haproxy", "www") == everyone
