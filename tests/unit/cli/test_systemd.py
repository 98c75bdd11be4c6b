"""The systemd units: filled in for this host, accepted by systemd, and hardened according to `systemd-analyze security`."""

from __future__ import annotations

import os
import pwd
import re
import shutil
import stat
import subprocess
from pathlib import Path

import pytest

from hsmd.cli.base import systemd
from hsmd.cli.base.errors import CommandError
from tests.support.cli import Run

MOST = 2.0
"""The exposure level that docs/install.md promises (from 0, hardened, to 10)."""


def analyze(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    program = shutil.which("systemd-analyze")
    assert program is not None, "systemd-analyze is not installed; on Debian: apt install systemd"
    return subprocess.run(
        [program, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={**os.environ, "PATH": "/usr/bin:/bin", "SYSTEMD_UNIT_PATH": ":", "SYSTEMD_COLORS": "0"},
    )


def exposure(unit: Path) -> float:
    done = analyze("security", "--offline=true", "--no-pager", unit)
    found = re.search(r"Overall exposure level for \S+: ([0-9.]+)", done.stdout)
    assert found, done.stdout + done.stderr
    return float(found[1])


@pytest.fixture
def units(tmp_path: Path) -> list[Path]:
    """All units with realistic values; the program is an existing one."""
    daemon = systemd.daemon_unit(Path("/etc/hsmd/hsmd.toml"), Path("/var/lib/hsmd"), Path("/etc/hsmd/pin"))
    agent = systemd.agent_unit(Path("/etc/hsmd/agent.toml"), "daemon", "www-data")
    made = []
    archive = systemd.archive_units(Path("/var/lib/hsmd/audit"), Path("/srv/archive"), "daemon", remove=True)
    deploy = systemd.deploy_units(
        Path("/var/lib/hsmd-agent"), Path("/etc/hsmd/keys"), Path("/etc/hsmd/servers.d")
    )
    made_from = {systemd.DAEMON_UNIT: daemon, systemd.AGENT_UNIT: agent, **archive, **deploy}
    for name, text in made_from.items():
        path = tmp_path / name
        path.write_text(text)
        made.append(path)
    return made


def test_units_stay_below_the_exposure_limit(units: list[Path]) -> None:
    services = [path for path in units if path.suffix == ".service"]
    assert {path.name: exposure(path) <= MOST for path in services} == {path.name: True for path in services}


def test_a_unit_without_hardening_exceeds_the_limit(units: list[Path], tmp_path: Path) -> None:
    text = (
        units[0]
        .read_text()
        .replace("SystemCallFilter", "#SystemCallFilter")
        .replace("ProtectSystem", "#ProtectSystem")
    )
    (tmp_path / "open.service").write_text(text)
    assert exposure(tmp_path / "open.service") > MOST


def test_systemd_reports_no_problem(units: list[Path]) -> None:
    for unit in units:
        done = analyze("verify", "--man=no", unit)
        ours = [line for line in (done.stdout + done.stderr).splitlines() if unit.name in line]
        assert ours == []


def test_paths_that_a_unit_cannot_hold_are_refused() -> None:
    for path in ("/etc/a b", "/etc/%i", "/etc/$x", "/etc/a\nExecStart=/bin/sh", "/etc/a:b", '/etc/"'):
        with pytest.raises(CommandError):
            systemd.daemon_unit(Path(path), Path("/var/lib/hsmd"), None)


def test_init_writes_a_unit_that_passes_the_pin_as_a_credential(run: Run, tmp_path: Path) -> None:
    pin, module = tmp_path / "pin", tmp_path / "module.so"
    pin.write_text("1234\n")
    pin.chmod(0o600)
    module.touch()
    config = tmp_path / "etc" / "hsmd.toml"
    units_directory = tmp_path / "system"
    units_directory.mkdir()
    arguments = (
        "init",
        "--config",
        str(config),
        "--module",
        str(module),
        "--token-label",
        "t",
        "--pin-file",
        str(pin),
        "--no-token-test",
    )
    users = ("--front-user", "nobody", "--worker-user", "daemon") if os.geteuid() == 0 else ()
    ran = run(
        *arguments, *users, "--profile", str(tmp_path / "operator.toml"), "--systemd", str(units_directory)
    )
    assert ran.code == 0, ran.err
    unit = (units_directory / "hsmd.service").read_text()
    assert f"LoadCredential=pin:{pin}" in unit
    assert f"serve --config {config}" in unit
    assert 'pin_credential = "pin"' in config.read_text()
    assert "1234" not in unit + config.read_text()
    if users:
        found = config.stat()
        assert (found.st_uid, found.st_gid, stat.S_IMODE(found.st_mode)) == (
            0,
            pwd.getpwnam("nobody").pw_gid,
            0o640,
        )


# --- hsmd systemd install ---


@pytest.fixture
def config(run: Run, tmp_path: Path) -> Path:
    """The configuration of a daemon whose token is in hardware."""
    (tmp_path / "pin").write_text("1234\n")
    (tmp_path / "pin").chmod(0o600)
    (tmp_path / "module.so").touch()
    path = tmp_path / "etc" / "hsmd.toml"
    ran = run(
        "init", "--config", str(path), "--state", str(tmp_path / "state"), "--module", str(tmp_path / "module.so"),
        "--token-label", "t", "--pin-file", str(tmp_path / "pin"), "--profile", str(tmp_path / "operator.toml"),
        "--no-token-test", *(("--run-as-root",) if os.geteuid() == 0 else ()),
    )  # fmt: skip
    assert ran.code == 0, ran.err
    return path


def test_the_service_is_written_for_an_existing_configuration(run: Run, tmp_path: Path, config: Path) -> None:
    ran = run("systemd", "install", "--config", str(config), "--root", str(tmp_path / "root"))
    assert ran.code == 0, ran.err
    unit = (tmp_path / "root/etc/systemd/system/hsmd.service").read_text()
    assert f"serve --config {config}\n" in unit
    assert f"ReadWritePaths={tmp_path / 'state'}\n" in unit
    assert "LoadCredential" not in unit
    check, signal = re.findall(r"^ExecReload=(.*)$", unit, re.MULTILINE)
    assert check.endswith(f"serve --check --without-tokens --config {config}") and "kill -HUP" in signal
    assert "systemctl enable --now hsmd" in ran.err


def test_the_services_are_removed_again(run: Run, tmp_path: Path, config: Path) -> None:
    root, units = tmp_path / "root", tmp_path / "root/etc/systemd/system"
    assert (
        run("systemd", "install", "--config", str(config), "--root", str(root), "--archive-to", "/srv/a").code
        == 0
    )
    (units / "hsmd.service.d").mkdir()
    (units / "other.service").touch()
    ran = run("systemd", "remove", "--root", str(root))
    assert (ran.code, ran.out.count("Removed ")) == (0, 3)
    assert "systemctl daemon-reload" in ran.err
    assert sorted(os.listdir(units)) == ["hsmd.service.d", "other.service"]
    assert "There were no units" in run("systemd", "remove", "--root", str(root)).out


@pytest.mark.parametrize("command", [("systemd", "remove"), ("agent", "install", "systemd", "--remove")])
def test_a_unit_of_another_author_is_not_removed(run: Run, tmp_path: Path, command: tuple[str, ...]) -> None:
    units = tmp_path / "etc/systemd/system"
    units.mkdir(parents=True)
    names = ("hsmd.service", "hsmd-archive.timer", "hsmd-agent.service", "hsmd-agent-deploy.path")
    for name in names[::2]:
        (units / name).write_text("# The site's own\n[Unit]\nDescription=written by `hsmd` of another kind\n")
    for name in names[1::2]:
        (units / name).write_text("# written by `hsmd systemd install`\n")
    ran = run(*command, "--root", str(tmp_path))
    assert (ran.code, "was not written by hsmd" in ran.err) == (1, True)
    assert sorted(os.listdir(units)) == sorted(names), "all or none"


def test_the_services_of_an_agent_are_removed_again(run: Run, tmp_path: Path) -> None:
    units = tmp_path / "etc/systemd/system"
    units.mkdir(parents=True)
    written = {systemd.AGENT_UNIT: systemd.agent_unit(Path("/etc/hsmd/agent.toml"), "daemon", "")}
    written |= systemd.deploy_units(Path("/var/lib/a"), Path("/etc/hsmd/keys"), Path("/etc/hsmd/servers.d"))
    for name, text in written.items():
        (units / name).write_text(text)
    ran = run("agent", "install", "systemd", "--remove", "--yes", "--root", str(tmp_path))
    assert (ran.code, ran.out.count("Removed "), os.listdir(units)) == (0, 3, [])


def test_print_writes_nothing(run: Run, tmp_path: Path, config: Path) -> None:
    ran = run("systemd", "install", "--config", str(config), "--root", str(tmp_path / "root"), "--print")
    assert "# ---- /etc/systemd/system/hsmd.service" in ran.out
    assert not (tmp_path / "root").exists()


def test_a_credential_needs_the_file_that_it_is_read_from(run: Run, tmp_path: Path, config: Path) -> None:
    config.write_text(re.sub(r'\npin_file = ".*"', '\npin_credential = "tls-pin"', config.read_text()))
    install = ("systemd", "install", "--config", str(config), "--print")
    ran = run(*install)
    assert (ran.code, "--pin-file" in ran.err) == (2, True)
    assert "LoadCredential=tls-pin:/etc/hsmd/pin\n" in run(*install, "--pin-file", "/etc/hsmd/pin").out


def test_the_file_of_a_credential_is_kept_when_the_service_is_replaced(
    run: Run, tmp_path: Path, config: Path
) -> None:
    config.write_text(re.sub(r'\npin_file = ".*"', '\npin_credential = "tls-pin"', config.read_text()))
    install = ("systemd", "install", "--config", str(config), "--root", str(tmp_path))
    unit = tmp_path / "etc/systemd/system/hsmd.service"
    unit.parent.mkdir(parents=True)
    unit.write_text(
        "[Service]\nLoadCredential=other:/etc/other\nLoadCredential=tls-pin:/etc/hsmd/first-pin\n"
    )
    assert run(*install).code == 0
    assert "\nLoadCredential=tls-pin:/etc/hsmd/first-pin\n" in unit.read_text()
    assert run(*install, "--pin-file", "/etc/hsmd/pin").code == 0
    assert "\nLoadCredential=tls-pin:/etc/hsmd/pin\n" in unit.read_text()
    unit.write_text("[Service]\nLoadCredential=other:/etc/other\n")
    assert run(*install).code == 2


def test_a_pin_file_that_the_configuration_names_is_no_credential(
    run: Run, tmp_path: Path, config: Path
) -> None:
    ran = run("systemd", "install", "--config", str(config), "--print", "--pin-file", "/etc/hsmd/pin")
    assert (ran.code, "omit --pin-file" in ran.err) == (2, True)


def test_the_module_may_write_where_softhsm_and_the_operator_say(
    run: Run, tmp_path: Path, config: Path
) -> None:
    (tmp_path / "softhsm2.conf").write_text("directories.tokendir = /var/lib/softhsm/tokens/\n")
    (tmp_path / "libpkcs11.so").symlink_to("libsofthsm2.so")  # as under a vendor's path
    text = config.read_text().replace("module.so", "libpkcs11.so")
    environment = f'environment = {{ SOFTHSM2_CONF = "{tmp_path}/softhsm2.conf" }}'
    config.write_text(text.replace("environment = {  }", environment))
    ran = run(
        "systemd", "install", "--config", str(config), "--print", "--module-writes", "/opt/vendor/state"
    )
    assert f"ReadWritePaths={tmp_path / 'state'} -/opt/vendor/state -/var/lib/softhsm/tokens\n" in ran.out


def test_a_timer_archives_the_log(run: Run, tmp_path: Path, config: Path) -> None:
    install = ("systemd", "install", "--config", str(config), "--root", str(tmp_path / "root"))
    assert run(*install, "--archive-remove").code == 2
    ran = run(*install, "--archive-to", "/srv/archive", "--archive-remove")
    assert ran.code == 0, ran.err
    units = tmp_path / "root/etc/systemd/system"
    service = (units / "hsmd-archive.service").read_text()
    assert f"audit archive --log {tmp_path}/state/audit --to /srv/archive --remove\n" in service
    assert (units / "hsmd-archive.timer").exists()
    assert "systemctl enable --now hsmd hsmd-archive.timer" in ran.err
