"""`hsmd agent` without a running agent: set-up files, files for servers, checks of files and permissions."""

from __future__ import annotations

import json
import os
import pwd
import socket
import stat
import tomllib
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import NameOID
from msgspec.structs import replace

from hsmd import provider
from hsmd.agent import config as agent_config, listener
from hsmd.cli.agent import check_agent, check_files, export
from hsmd.cli.agent.servers import actors
from hsmd.cli.base import agent_toml, key_files, ssh_keys
from hsmd.cli.base.errors import CommandError
from hsmd.client.keyref import KeyReference, encode
from hsmd.errors import ProtocolError
from hsmd.protocol.messages import KeyInfo
from hsmd.system import atomic_file, directories
from tests.support.cli import Run
from tests.support.fake_control import NOW, FakeControl

HOST_KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIIy2wz6cipyHlUlxaUp5RUJ/yHqBk2/jr7YXkA9ghGC9"
INIT = [
    "agent",
    "init",
    "--daemon",
    "192.0.2.1:7440",
    "--client",
    "web1",
    "--host-key",
    HOST_KEY,
    "--config",
    "front/agent.toml",
]


# --- init ---


def test_init_writes_a_configuration_the_agent_accepts(run: Run, home: Path) -> None:
    ran = run(*INIT, "--allow", "root", "--allow", "daemon", "--json")
    assert ran.code == 0, ran.err
    config = agent_config.load(home / "front" / "agent.toml")
    [daemon] = config.daemons
    assert (daemon.host, daemon.port, daemon.host_keys, daemon.user) == (
        "192.0.2.1",
        7440,
        (HOST_KEY,),
        "web1",
    )
    assert daemon.identity_file == home / "front" / "agent_ed25519"
    assert config.rules.allow(0, "any")
    assert config.rules.allow(pwd.getpwnam("daemon").pw_uid, "any")
    assert not config.rules.allow(pwd.getpwnam("nobody").pw_uid, "any")


def test_init_prints_the_command_for_the_operator(run: Run, home: Path) -> None:
    out = run(*INIT).err
    line = ssh_keys.read(home / "front" / "agent_ed25519.pub").line
    assert f"hsmd client add web1 --key '{line}'" in out


def test_init_keeps_the_key_private_and_overwrites_nothing(run: Run, home: Path) -> None:
    assert run(*INIT).code == 0
    for name in ("agent.toml", "agent_ed25519"):
        assert stat.S_IMODE((home / "front" / name).stat().st_mode) == 0o600
    before = (home / "front" / "agent_ed25519").read_bytes()
    assert run(*INIT).code == 1
    (home / "front" / "agent.toml").unlink()
    assert run(*INIT).code == 1
    assert (home / "front" / "agent_ed25519").read_bytes() == before


def test_init_keeps_an_existing_public_key(run: Run, home: Path) -> None:
    """The private half may be on another host."""
    other = home / "front" / "agent_ed25519.pub"
    other.parent.mkdir(exist_ok=True)
    other.write_text("ssh-ed25519 another user's\n")
    assert run(*INIT).code == 1
    assert [path for path in home.rglob("*") if path.is_file()] == [other]
    assert other.read_text() == "ssh-ed25519 another user's\n"


@pytest.mark.parametrize(
    "wrong",
    [
        ["--daemon", "192.0.2.1:99999"],
        ["--host-key", "ssh-rsa AAAA"],
        ["--client", "no spaces"],
        ["--allow", "no-such-user-here"],
        ["--owner", "no-such-user-here"],
        ["--socket", "/" + "x" * 120],
    ],
    ids=lambda words: words[0],
)
def test_init_refuses_values_that_no_agent_could_use(run: Run, home: Path, wrong: list[str]) -> None:
    ran = run(*INIT, *wrong)
    assert ran.code in (1, 2)
    assert ran.err.count("\n") == 1
    assert not [path for path in home.rglob("*") if path.is_file()]


def test_hostile_text_stays_inside_its_toml_string() -> None:
    local = agent_toml.Local(Path('/run/a"\nb/agent.sock'), Path("/var/lib/x"), ('a"]\nroot', "b\x7f"))
    text = agent_toml.render(local, agent_toml.Pinned("192.0.2.1", (HOST_KEY,), "web1", Path("/id")))
    document = tomllib.loads(text)
    assert document["defaults"]["users"] == ['a"]\nroot', "b\x7f"]
    assert document["agent"]["socket"] == '/run/a"\nb/agent.sock'


# --- install ---


@pytest.fixture
def module(home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An installed provider module."""
    monkeypatch.setattr(provider, "module_path", lambda: Path("/opt/hsmd/hsmd.so"))
    return Path("/opt/hsmd/hsmd.so")


def test_install_writes_the_files_for_nginx(run: Run, home: Path, module: Path) -> None:
    ran = run(
        "agent",
        "install",
        "nginx",
        "--key",
        "www",
        "--socket",
        "/run/a.sock",
        "--keys",
        "/etc/hsmd/keys",
        "--root",
        "image",
    )
    assert ran.code == 0, ran.err
    openssl = (home / "image/etc/hsmd/openssl.cnf").read_text()
    assert "socket = /run/a.sock" in openssl
    assert f"module = {module}" in openssl
    assert (
        "OPENSSL_CONF=/etc/hsmd/openssl.cnf"
        in (home / "image/etc/systemd/system/nginx.service.d/hsmd.conf").read_text()
    )
    snippet = (home / "image/etc/nginx/snippets/hsmd-www.conf").read_text()
    assert "ssl_certificate /etc/hsmd/keys/www.pem;" in snippet
    assert "ssl_certificate_key /etc/hsmd/keys/www.key;" in snippet


def test_install_can_print_the_files_instead(run: Run, home: Path, module: Path) -> None:
    ran = run("agent", "install", "openssl", "--socket", "/run/a.sock", "--print", "--root", "image")
    assert "[hsmd_self]" in ran.out
    assert not (home / "image").exists()
    files = json.loads(
        run("agent", "install", "openssl", "--socket", "/run/a.sock", "--print", "--json").out
    )["files"]
    assert [file["path"] for file in files] == ["/etc/hsmd/openssl.cnf"]


def test_install_without_provider_or_key_fails_with_advice(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing() -> Path:
        raise FileNotFoundError("the OpenSSL provider hsmd.so is in none of: ...")

    monkeypatch.setattr(provider, "module_path", missing)
    assert run("agent", "install", "nginx", "--socket", "/run/a.sock").code == 2
    ran = run("agent", "install", "openssl", "--socket", "/run/a.sock")
    assert (ran.code, "hsmd.so" in ran.err) == (1, True)


# --- checks ---


@pytest.fixture
def key() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


def _info(key: ec.EllipticCurvePrivateKey) -> KeyInfo:
    der = key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return KeyInfo("www", "p-256", KeyReference("www", der).digest.hex(), der, [], "t", NOW)


def _certificate(path: Path, key: ec.EllipticCurvePrivateKey, begin: datetime, days: int) -> Path:
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "www")])
    made = x509.CertificateBuilder(name, name, key.public_key(), 1, begin, begin + timedelta(days=days)).sign(
        key, hashes.SHA256()
    )
    path.write_bytes(made.public_bytes(Encoding.PEM))
    return path


@pytest.mark.parametrize(
    ("days", "at", "complaint"),
    [
        (90, 1, ""),
        (90, 77, "expires on"),
        (90, 91, "expired on"),
        (90, -1, "not valid before"),
        (10, 1, ""),  # of short term: the last fifth
        (10, 9, "expires on"),
    ],
)
def test_the_validity_of_a_certificate_is_checked(
    home: Path, key: ec.EllipticCurvePrivateKey, days: int, at: int, complaint: str
) -> None:
    begin = datetime(2030, 1, 1, tzinfo=UTC)
    path = _certificate(home / "www.pem", key, begin, days)
    belongs, term = check_files.check_certificate(path, "www", _info(key), begin + timedelta(days=at))
    assert belongs.ok
    assert (term.ok, bool(term.fix)) == (not complaint, bool(complaint))
    assert complaint in term.text
    severity = {"": "well", "expires on": "degraded"}.get(complaint, "failing")
    assert term.severity == severity


@pytest.mark.parametrize(("at", "severity"), [(1, "degraded"), (91, "failing")])
def test_another_chain_of_the_daemon_is_worse_if_it_has_ended(
    home: Path, key: ec.EllipticCurvePrivateKey, at: int, severity: str
) -> None:
    begin = datetime(2030, 1, 1, tzinfo=UTC)
    path, now = _certificate(home / "www.pem", key, begin, 400), begin + timedelta(days=at)
    held = _certificate(home / "held.pem", key, begin, 90).read_text()
    (finding,) = check_files.check_current(path, "www", held, now)
    assert finding.severity == severity
    assert ("hsmd cert import www" in finding.fix) == (severity == "failing")
    assert check_files.check_current(path, "www", path.read_text(), now)[0].ok


def test_certificate_and_reference_of_another_key_are_found(
    home: Path, key: ec.EllipticCurvePrivateKey
) -> None:
    other = ec.generate_private_key(ec.SECP256R1())
    now = datetime(2030, 1, 1, tzinfo=UTC)
    path = _certificate(home / "www.pem", other, now, 90)
    assert not check_files.check_certificate(path, "www", _info(key), now)[0].ok
    reference = home / "www.key"
    reference.write_text(encode(KeyReference("www", _info(other).public_key)))
    assert not check_files.check_reference(reference, "www", _info(key))[0].ok
    assert check_files.check_reference(reference, "www", _info(other))[0].ok
    assert check_files.check_reference(reference, "www", None)[0].ok


@pytest.mark.parametrize(
    "content", [None, "", "-----BEGIN PRIVATE KEY-----\nMAA=\n-----END PRIVATE KEY-----\n", "\0"]
)
def test_missing_and_malformed_files_are_reported(
    home: Path, key: ec.EllipticCurvePrivateKey, content: str | None
) -> None:
    path = home / "file"
    if content is not None:
        path.write_text(content)
    for found in (
        check_files.check_reference(path, "www", _info(key)),
        check_files.check_certificate(path, "www", _info(key), NOW),
    ):
        assert [finding.ok for finding in found] == [False]
        assert found[0].fix == "write it again: hsmd agent export www"


def test_permissions_are_checked_for_another_user(run: Run, home: Path) -> None:
    inner = home / "run"
    inner.mkdir(mode=0o755)
    path = inner / "agent.sock"
    nobody, me = pwd.getpwnam("nobody"), pwd.getpwuid(os.geteuid()).pw_name
    assert nobody.pw_uid != os.geteuid()
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        for parent in (home, *home.parents[:-1]):
            if parent.stat().st_uid == os.geteuid() and parent != Path("/tmp"):
                parent.chmod(parent.stat().st_mode | 0o011)
        path.chmod(0o600)
        assert "may not use" in _permission(path, "nobody")
        path.chmod(0o666)
        assert "nobody may use" in _permission(path, "nobody")
        inner.chmod(0o700)
        assert f"may not enter {inner}" in _permission(path, "nobody")
        assert f"{me} may use" in _permission(path, me)
        unknown = run("agent", "check", "www", "--user", "no-such-user-here")
        assert (unknown.code, "no user no-such-user-here" in unknown.out) == (4, True)


@pytest.fixture
def strict_umask() -> Iterator[None]:
    before = os.umask(0o077)
    yield
    os.umask(before)


def test_files_for_servers_are_readable_whatever_the_umask(
    run: Run, home: Path, fake_control: FakeControl, strict_umask: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    from hsmd.client import Client

    monkeypatch.setattr(Client, "connect", lambda *_: closing(fake_control))
    monkeypatch.setattr(export, "export_key", lambda *a, **_: _written(a[2]))
    for line in (
        ("agent", "install", "nginx", "--key", "www", "--socket", "/run/a.sock", "--root", "root"),
        ("agent", "export", "www", "--out", "root/a/b/keys", "--socket", "/run/a.sock"),
    ):
        assert run(*line).code == 0
    made = [home / "root", *(home / "root").rglob("*")]
    assert {stat.S_IMODE(path.stat().st_mode) for path in made if path.is_dir()} == {0o755}
    assert {stat.S_IMODE(path.stat().st_mode) for path in made if path.is_file()} == {0o644}
    assert home / "root" / "a" / "b" / "keys" / "www.key" in made
    listener.listen(agent_config.SocketConfig(home / "run" / "a.sock", 0o660, -1, -1)).close()
    assert stat.S_IMODE((home / "run").stat().st_mode) == 0o755


def test_a_key_reference_is_for_its_owner_and_a_group(home: Path, key: ec.EllipticCurvePrivateKey) -> None:
    """PostgreSQL and libpq accept 0600, and 0640 if root is the owner."""
    is_root = os.geteuid() == 0
    written = key_files.write_key(_info(key), "", home).reference
    assert stat.S_IMODE(written.stat().st_mode) == (0o640 if is_root else 0o600)
    group = os.getgroups()[-1] if not is_root else 12345
    for wanted in (group, key_files.KEEP_GROUP) if is_root else (group,):
        key_files.write_key(_info(key), "", home, wanted)
        assert (stat.S_IMODE(written.stat().st_mode), written.stat().st_gid) == (0o640, group)
    os.chmod(written, 0o644)
    key_files.write_key(_info(key), "", home)
    assert stat.S_IMODE(written.stat().st_mode) in (0o640, 0o600), "as earlier releases wrote it"
    with pytest.raises(CommandError, match="there is no group no-such-group"):
        key_files.readers("no-such-group")


def test_a_key_whose_name_is_a_path_is_not_exported(home: Path, key: ec.EllipticCurvePrivateKey) -> None:
    (home / "keys").mkdir()
    with pytest.raises(ProtocolError, match="cannot be that of a file"):
        key_files.write_key(replace(_info(key), name="../www"), "", home / "keys")
    assert key_files.write_key(_info(key), "", home / "keys").reference.exists()
    assert not (home / "www.key").exists()


def _written(directory: Path) -> key_files.Exported:
    atomic_file.replace(directory / "www.key", "reference", 0o644)
    return key_files.Exported("www", directory / "www.key", None)


def test_an_existing_directory_keeps_its_mode(home: Path) -> None:
    (home / "private").mkdir(mode=0o700)
    directories.make_shared(home / "private" / "new")
    assert stat.S_IMODE((home / "private").stat().st_mode) == 0o700
    (home / "file").touch()
    with pytest.raises(OSError):
        directories.make_shared(home / "file")


def test_files_are_checked_for_the_user_of_the_server(run: Run, home: Path, fake_agent_openssl: Path) -> None:
    for parent in (home, *home.parents[:-1]):
        if parent.stat().st_uid == os.geteuid() and parent != Path("/tmp"):
            parent.chmod(parent.stat().st_mode | 0o011)
    keys = home / "keys"
    keys.mkdir(mode=0o755)
    reference = keys / "www.key"
    reference.touch(mode=0o644)
    check = (
        "agent",
        "check",
        "www",
        "--user",
        "nobody",
        "--file",
        str(reference),
        "--socket",
        "/nonexistent",
    )
    openssl = ("--openssl", str(fake_agent_openssl))
    assert f"permissions: nobody may read {reference}" in run(*check, *openssl).out
    assert f"permissions: nobody may read {fake_agent_openssl}" in run(*check, *openssl).out
    assert f"nobody may not enter {home / 'private'}" in run(*check, *openssl).out, "for the module"
    reference.chmod(0o600)
    assert (
        f"nobody may not read {reference}\n          to fix it: run: hsmd agent export www --group "
        in run(*check, *openssl).out
    )
    keys.chmod(0o700)
    assert f"nobody may not enter {keys}\n          to fix it: run: chmod o+x" in run(*check, *openssl).out


@pytest.fixture
def fake_agent_openssl(home: Path) -> Path:
    (home / "private").mkdir(mode=0o700)
    (home / "private" / "hsmd.so").touch(mode=0o644)
    made = home / "openssl.cnf"
    made.write_text(f"[hsmd]\nmodule = {home}/private/hsmd.so\n")
    made.chmod(0o644)
    return made


def _permission(path: Path, user: str) -> str:
    found, _ = check_agent.check_agent(path, actors.of_user(user, Path("/nonexistent")), ["www"])
    return next(finding.text for finding in found if finding.subject == "permissions")
