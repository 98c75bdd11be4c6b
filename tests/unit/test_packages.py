"""The Debian packages, as far as their sources show it: units, maintainer scripts, dependencies. `scripts/soak packages` builds them."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from hsmd.cli.base import server_list, systemd

ROOT = Path(__file__).parents[2]
DEBIAN = ROOT / "debian"
MAINTAINER_SCRIPTS = sorted(
    path for path in DEBIAN.iterdir() if path.suffix in (".preinst", ".postinst", ".prerm", ".postrm")
)
SHELL_PROGRAMS = [ROOT / "scripts" / "package", DEBIAN / "install-files"]


def paragraphs(file: Path) -> dict[str, dict[str, str]]:
    """The binary packages of debian/control by name, each with its fields."""
    found = {}
    for paragraph in file.read_text().split("\n\n"):
        fields = dict(re.findall(r"^(\S+): (.*)$", paragraph, re.MULTILINE))
        if "Package" in fields:
            found[fields["Package"]] = fields
    return found


def test_the_key_hosts_package_builds_on_that_of_front_ends() -> None:
    """They share one environment and one command, so they are of one version."""
    packages = paragraphs(DEBIAN / "control")
    assert set(packages) == {"hsmd-agent", "hsmd"}
    assert "hsmd-agent (= ${binary:Version})" in packages["hsmd"]["Depends"]
    assert "libseccomp2" in packages["hsmd"]["Depends"]
    assert "adduser" in packages["hsmd-agent"]["Depends"]
    assert "${hsmd:Depends}" in packages["hsmd-agent"]["Depends"]  # Python and OpenSSL of the release


def test_units_are_those_of_other_installations_with_a_condition(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, DEBIAN / "generate-units", tmp_path],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={"PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 0, done.stderr
    config, agent_config = Path("/etc/hsmd/hsmd.toml"), Path("/etc/hsmd/agent.toml")
    others = {
        "hsmd.service": systemd.daemon_unit(config, Path("/var/lib/hsmd"), None),
        "hsmd-agent.service": systemd.agent_unit(agent_config, "hsmd-agent", ""),
    }
    deploy = systemd.deploy_units(
        Path("/var/lib/hsmd-agent"), Path("/etc/hsmd/keys"), server_list.beside(agent_config)
    )
    others |= {f"hsmd-agent.{name}": unit for name, unit in deploy.items()}
    assert {path.name for path in tmp_path.iterdir()} == set(others)
    for name, other in others.items():
        unit = (tmp_path / name).read_text()
        added = {line for line in unit.splitlines() if line not in other.splitlines() and line[:1] != "#"}
        program = {line for line in added if re.match(r"ExecStart=/usr/bin/hsmd \S+", line)}
        assert len(program) == other.count("ExecStart=")
        waits = set() if "deploy" in name else {config if name == "hsmd.service" else agent_config}
        assert added - program == {f"ConditionPathExists={path}" for path in waits}
        assert "\nConditionPathExists=" not in unit.partition("[Service]")[2]


def test_each_unit_is_packaged_or_needs_what_a_package_cannot_know() -> None:
    """A timer that archives the log needs a place for it; and a node, of which a host may have several, its configuration."""
    script = (DEBIAN / "generate-units").read_text()
    units = {path.name.partition(".")[0] for path in (Path(systemd.__file__).parents[1] / "units").iterdir()}
    assert units == {"hsmd", "hsmd-agent", "hsmd-agent-deploy", "hsmd-archive", "hsmd-node"}
    assert all(part in script for part in ("daemon_unit", "agent_unit", "deploy_units"))


@pytest.mark.parametrize("script", [*MAINTAINER_SCRIPTS, *SHELL_PROGRAMS], ids=lambda path: path.name)
def test_shell_programs_have_no_findings(script: Path) -> None:
    assert shutil.which("shellcheck"), "shellcheck is not installed; on Debian: apt install shellcheck"
    done = subprocess.run(
        ["shellcheck", "--external-sources", script],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        cwd=ROOT,
    )
    assert done.returncode == 0, done.stdout


def test_shellcheck_finds_something(tmp_path: Path) -> None:
    (tmp_path / "postinst").write_text("#!/bin/sh\nrm -rf $1/*\n")
    done = subprocess.run(
        ["shellcheck", tmp_path / "postinst"], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 1


@pytest.mark.parametrize("script", MAINTAINER_SCRIPTS, ids=lambda path: path.name)
def test_maintainer_scripts_stop_at_errors_and_leave_room_for_debhelper(script: Path) -> None:
    """Policy, 10.4; debhelper(7): what starts and stops the services is inserted."""
    lines = script.read_text().splitlines()
    assert lines[:2] == ["#!/bin/sh", "set -e"]
    assert lines[-1] == "#DEBHELPER#"


class Host:
    """A root directory in which maintainer scripts run, without what debhelper inserts."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def write(self, path: str, text: str) -> None:
        file = self.root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)

    def purge(self, package: str) -> str:
        """Run the script of a purge, which must not fail; what it says."""
        script = re.sub(
            r"(?<=[ (])/(etc|var)/",
            lambda found: f"{self.root}/{found[1]}/",
            (DEBIAN / f"{package}.postrm").read_text(),
        )
        assert str(self.root) in script and " /etc/" not in script
        done = subprocess.run(
            ["sh", "-c", script, "postrm", "purge"], capture_output=True, text=True, timeout=60, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stderr

    def files(self) -> dict[str, str]:
        return {
            str(path.relative_to(self.root)): path.read_text()
            for path in self.root.rglob("*")
            if path.is_file()
        }


def test_a_purge_keeps_what_cannot_be_made_again(tmp_path: Path) -> None:
    host = Host(tmp_path)
    kept = {f"etc/hsmd/{name}": name for name in ("host_ed25519", "host_ed25519.pub", "pin")}
    kept |= {"var/lib/hsmd/hsmd.sqlite": "store", "var/lib/hsmd/audit/1": "log"}
    for path, text in {**kept, "etc/hsmd/hsmd.toml": "first"}.items():
        host.write(path, text)
    said = host.purge("hsmd")
    assert host.files() == {**kept, "etc/hsmd/hsmd.toml.purged": "first"}
    for path in ("etc/hsmd/hsmd.toml.purged", "etc/hsmd/host_ed25519", "etc/hsmd/pin", "var/lib/hsmd"):
        assert f"  {tmp_path}/{path}\n" in said
    host.write("etc/hsmd/hsmd.toml", "second")
    host.purge("hsmd")
    again = {"etc/hsmd/hsmd.toml.purged": "second", "etc/hsmd/hsmd.toml.purged.~1~": "first"}
    assert host.files() == {**kept, **again}, "nothing of the first purge is lost"
    host.purge("hsmd-agent")
    assert host.files() == {**kept, **again}


def test_a_purge_writes_nowhere_else(tmp_path: Path) -> None:
    """The user of the front process owns /var/lib/hsmd; what it puts there must not lead root."""
    host = Host(tmp_path / "root")
    host.write("etc/hsmd/hsmd.toml", "configuration")
    (tmp_path / "elsewhere").mkdir()
    host.write("var/lib/hsmd/hsmd.sqlite", "store")
    for directory in ("var/lib/hsmd", "etc/hsmd"):
        (host.root / directory / "hsmd.toml.purged").symlink_to(tmp_path / "elsewhere")
    host.purge("hsmd")
    assert list((tmp_path / "elsewhere").iterdir()) == []
    assert host.files()["etc/hsmd/hsmd.toml.purged"] == "configuration"


@pytest.mark.parametrize("package", ["hsmd", "hsmd-agent"])
@pytest.mark.parametrize(
    "there", [(), ("etc/hsmd/pin",), ("var/lib/hsmd/hsmd.sqlite",), ("etc/hsmd/agent.toml",)], ids=str
)
def test_a_purge_of_what_is_half_removed_does_not_fail(
    tmp_path: Path, package: str, there: tuple[str, ...]
) -> None:
    host = Host(tmp_path)
    for path in there:
        host.write(path, "")
    host.purge(package)
    host.purge(package)
    left = set(host.files())
    assert left == set(there) - ({"etc/hsmd/agent.toml"} if package == "hsmd-agent" else set())


def test_a_purge_takes_links_for_directories_as_they_are(tmp_path: Path) -> None:
    host = Host(tmp_path)
    host.write("srv/hsmd/agent.toml", "")
    host.write("srv/hsmd/other", "")
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/hsmd").symlink_to(tmp_path / "srv/hsmd")
    host.purge("hsmd-agent")
    assert set(host.files()) == {"srv/hsmd/other"}


def test_help_of_the_build_names_its_options() -> None:
    done = subprocess.run(
        [ROOT / "scripts" / "package", "--help"], capture_output=True, text=True, timeout=60, check=True
    )
    assert all(
        option in done.stdout for option in ("--out DIR", "--roots DIR", "--lintian", "bookworm, trixie")
    )


def test_a_message_tells_pip_users_what_to_change() -> None:
    """The command in the message changes a unit so that the message does not come again."""
    script = (DEBIAN / "hsmd.postinst").read_text()
    unit = systemd.daemon_unit(Path("/etc/hsmd/hsmd.toml"), Path("/var/lib/hsmd"), None)
    edit = re.search(r"sed -i '([^']+)' \$unit", script)
    wanted = re.search(r"^ours='(.*)'$", script, re.MULTILINE)
    assert edit and wanted
    unit = re.sub(r"^ExecStart=\S+", "ExecStart=/opt/hsmd/bin/hsmd", unit, flags=re.MULTILINE)
    grep = ["grep", "-q", wanted[1]]
    assert subprocess.run(grep, input=unit, text=True, check=False).returncode == 1
    changed = subprocess.run(["sed", edit[1]], input=unit, text=True, capture_output=True, check=True).stdout
    assert subprocess.run(grep, input=changed, text=True, check=False).returncode == 0
    assert len([line for line in changed.splitlines() if line not in unit.splitlines()]) == 1
