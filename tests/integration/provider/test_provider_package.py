"""The shipped module: one symbol, no libcrypto, no warnings of two compilers or a memory checker; paths and configuration."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import hsmd.provider
from hsmd.provider import module_path, openssl_configuration
from tests.support.fake_agent import Agent, Fault
from tests.support.polling import wait_until
from tests.support.provider import Environment, Identity
from tests.support.provider_build import build_module

SOCKET = "/run/hsmd/agent.sock"


def output(*command: str | Path) -> str:
    """The output of a program, which must succeed."""
    return subprocess.run(
        [str(word) for word in command], capture_output=True, text=True, check=True, timeout=60
    ).stdout


@pytest.fixture(scope="module", params=["gcc", "clang"])
def built(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The module built by each compiler, with warnings as errors."""
    return build_module(tmp_path_factory.mktemp(request.param), request.param)


def test_one_exported_symbol(built: Path) -> None:
    defined = [line.split()[-1] for line in output("nm", "-D", "--defined-only", built).splitlines()]
    assert defined == ["OSSL_provider_init"]


def test_links_to_libc_alone(built: Path) -> None:
    lines = output("readelf", "-d", built).splitlines()
    assert [line.split("[")[1].rstrip("]") for line in lines if "NEEDED" in line] == ["libc.so.6"]
    assert any("NODELETE" in line for line in lines)


def test_both_builds_sign(
    built: Path, environment: Environment, evp_driver: Path, agent: Agent, identities: dict[str, Identity]
) -> None:
    configuration = environment.configuration(module=built)
    done = environment.run(
        [evp_driver, "sign", identities["p256"].reference, "SHA256", "0", "text"], configuration
    )
    assert done.stdout.startswith("signature 30")


@pytest.mark.parametrize("name", ["rsa", "p256"])
def test_a_memory_checker_finds_no_fault(
    environment: Environment, evp_driver: Path, agent: Agent, identities: dict[str, Identity], name: str
) -> None:
    """valgrind over load, compare, duplicate, sign or decrypt, and teardown: no invalid access, no leak by the provider."""
    identity = identities[name]
    certificates = [identity.certificate, identities["other"].certificate]
    commands: list[list[str | Path]] = [
        ["compare", identity.reference, *certificates],
        ["decrypt", identity.reference, identity.certificate]
        if name == "rsa"
        else ["sign", identity.reference, "SHA256", "0", "x"],
    ]
    checker = [
        "valgrind",
        "--quiet",
        "--leak-check=full",
        "--show-leak-kinds=definite,possible",
        "--error-exitcode=99",
    ]
    for command in commands:
        done = environment.run([*checker, evp_driver, *command], environment.configuration(timeout_ms=10_000))
        assert done.returncode == 0, done.stderr


def test_exit_while_threads_wait_for_the_agent(
    environment: Environment, evp_driver: Path, agent: Agent, identities: dict[str, Identity]
) -> None:
    """A process that exits while threads wait for a signature exits normally, not by a signal."""
    agent.fault = Fault.SILENT
    variables = {**os.environ, "OPENSSL_CONF": str(environment.configuration(timeout_ms=10_000))}
    command = [str(evp_driver), "exit", str(identities["p256"].reference), "4"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, env=variables) as process:
        wait_until(lambda: len(agent.requests) == 4)
        process.communicate(timeout=5)
    assert process.returncode == 0


def test_module_is_found_in_any_directory_of_the_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Wheels install it beside the Python files, editable installs elsewhere."""
    monkeypatch.setattr(hsmd.provider, "__path__", [str(tmp_path / "sources"), str(tmp_path / "built")])
    with pytest.raises(FileNotFoundError, match=r"hsmd\.so is in none of: .*sources, .*built"):
        module_path()
    (tmp_path / "built").mkdir()
    (tmp_path / "built" / "hsmd.so").write_bytes(b"")
    assert module_path() == tmp_path / "built" / "hsmd.so"


def test_a_linked_module_is_named_where_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A configuration that names it then outlives an upgrade of Python."""
    for directory in ("python3.13/provider", "ossl-modules"):
        (tmp_path / directory).mkdir(parents=True)
    (tmp_path / "ossl-modules" / "hsmd.so").touch()
    (tmp_path / "python3.13" / "provider" / "hsmd.so").symlink_to("../../ossl-modules/hsmd.so")
    monkeypatch.setattr(hsmd.provider, "__path__", [str(tmp_path / "python3.13" / "provider")])
    assert module_path() == tmp_path / "ossl-modules" / "hsmd.so"


def test_configuration_text(tmp_path: Path) -> None:
    site = tmp_path / "openssl.cnf"
    site.write_text("openssl_conf = openssl_init\n[openssl_init]\n# providers = provider_sect\n")
    text = openssl_configuration(SOCKET, 250, tmp_path / "hsmd.so", include=str(site))
    own = (
        "[hsmd_providers]\ndefault = hsmd_default\nhsmd = hsmd_self\n[hsmd_default]\nactivate = 1\n"
        f"[hsmd_self]\nmodule = {tmp_path}/hsmd.so\nsocket = {SOCKET}\ntimeout-ms = 250\nactivate = 1\n"
    )
    assert text == (f".include {site}\n[openssl_init]\nproviders = hsmd_providers\n" + own), (
        "the configuration of Debian 12 has an empty section openssl_init"
    )
    assert openssl_configuration(SOCKET, 250, tmp_path / "hsmd.so", include=None) == (
        "[default]\nopenssl_conf = hsmd_init\n[hsmd_init]\nproviders = hsmd_providers\n" + own
    )


def test_nothing_that_newer_openssl_refuses_to_clients(tmp_path: Path) -> None:
    """OpenSSL 3.5 of Debian 13: with a setting for servers alone, every context of a client fails (SSL_CONF_cmd(3))."""
    assert "system_default" not in openssl_configuration(SOCKET, 250, tmp_path / "hsmd.so", include=None)


@pytest.mark.parametrize(
    ("socket", "timeout_ms", "include", "message"),
    [
        ("agent.sock", 500, None, "socket must be an absolute path"),
        ("/" + "s" * 107, 500, None, "at most 107 bytes"),
        ("/run/a\nactivate = 0", 500, None, "misread"),
        ("/run/$ENV::HOME", 500, None, "misread"),
        ("/run/a#b", 500, None, "misread"),
        (SOCKET, 9, None, "timeout_ms must be from 10 to 10000"),
        (SOCKET, 10_001, None, "timeout_ms must be from 10 to 10000"),
        (SOCKET, 500, "openssl.cnf", "include must be an absolute path"),
    ],
)
def test_configuration_refuses_what_would_be_misread(
    socket: str, timeout_ms: int, include: str | None, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        openssl_configuration(socket, timeout_ms, Path("/m/hsmd.so"), include)


def test_listed_beside_the_default_provider(environment: Environment) -> None:
    listed = environment.run(["openssl", "list", "-providers"]).stdout
    assert [
        line.strip() for line in listed.splitlines() if line.startswith("  ") and not line.startswith("    ")
    ] == [
        "default",
        "hsmd",
    ]
    assert listed.count("status: active") == 2


def test_standard_library_alone() -> None:
    """hsmd.provider can be imported without any installed package."""
    script = (
        "import sys; import hsmd.provider; print([name for name in sys.modules if name.startswith('hsmd')])"
    )
    root = Path(hsmd.provider.__path__[0]).parents[1]
    environment = {"PYTHONPATH": str(root), "PATH": os.environ["PATH"]}
    done = subprocess.run(
        [sys.executable, "-S", "-c", script],
        capture_output=True,
        text=True,
        env=environment,
        check=True,
        timeout=30,
    )
    assert done.stdout.strip() == "['hsmd', 'hsmd.provider.site_configuration', 'hsmd.provider']"
