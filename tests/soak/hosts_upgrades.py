"""Journeys of `scripts/soak hosts` from an earlier hsmd to this tree's, and back: a pip installation, and Debian packages.

Each has a key host and a front end (and an operator's computer) of its own, on which the earlier hsmd serves before anything
is upgraded. It is built from its commit, so the history of the repository must be there.
"""

from __future__ import annotations

import fcntl
import json
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from tests.soak.hosts_journeys import clients_at_work, healthy, serves, wait_for_handshake
from tests.soak.hosts_steps import Report
from tests.soak.packages import RELEASES, data, without_unneeded
from tests.support.hosts import Bed, Host, roots
from tests.support.hosts.documents import HSMD_SOURCE, MODULE, SECRETS, SOURCES, TOKEN_LABEL, read
from tests.support.hosts.site import Clients, Site
from tests.support.processes import ROOT

PIP_COMMIT = "2b0049d"
"""The last commit whose documents know neither /opt/hsmd nor packages, and whose units carry the PIN as a credential."""
PIP_VERSION = "0.1.0.dev1"
"""Its version here: pip takes a wheel for newer by its number alone, and the number in the tree changes with releases."""
PACKAGES_COMMIT = "ff7e787"
"""The first commit whose packages were installed, upgraded and removed on hosts."""
OUTAGE_S = 20.0
"""The only daemon, the agent and nginx restart meanwhile, one after the other."""
BACK_S = 60.0
"""The only daemon is stopped until its store is restored."""

OLD_INSTALL = """
apt-get install -y python3-venv libseccomp2
python3 -m venv /opt/hsmd
/opt/hsmd/bin/pip install '{what}'
ln -sf /opt/hsmd/bin/hsmd /usr/local/bin/hsmd
"""
OLD_KEY = f"""
usermod --gid softhsm hsmd-token  # its workers have no other groups
useradd --system hsmd
install -d /etc/hsmd && install -m 600 /dev/stdin /etc/hsmd/pin
hsmd init --config /etc/hsmd/hsmd.toml --state /var/lib/hsmd --listen 10.9.0.1:7440 \\
    --module {MODULE} --token-label {TOKEN_LABEL} --pin-file /etc/hsmd/pin \\
    --front-user hsmd --worker-user hsmd-token --systemd /etc/systemd/system
systemctl daemon-reload && systemctl enable --now hsmd
hsmd key generate www
hsmd cert self-signed www --dns www.example.org
(umask 077 && hsmd client enroll web1 --grant www --address 10.9.0.1:7440 > /root/web1.token)
(umask 077 && hsmd client enroll bob --role operator --address 10.9.0.1:7440 > /root/bob.token)
"""
OLD_FRONT = """
useradd --system hsmd-agent
hsmd agent init --enroll /root/web1.token --owner hsmd-agent
hsmd agent install systemd --user hsmd-agent
install -d /etc/systemd/system/hsmd-agent.service.d  # its unit forbids it to give the socket to www-data
printf '[Service]\\nSystemCallFilter=@chown\\n' >/etc/systemd/system/hsmd-agent.service.d/socket.conf
systemctl daemon-reload && systemctl enable --now hsmd-agent
hsmd agent export www
hsmd agent install nginx --key www
cat > /etc/nginx/conf.d/www.conf <<'END'
server {
    listen 443 ssl;
    server_name www.example.org;
    include snippets/hsmd-www.conf;
    root /var/www/html;
}
END
systemctl daemon-reload && systemctl restart nginx
hsmd agent check www --user www-data
"""
OLD_OPERATOR = """
hsmd enroll /root/bob.token
hsmd status
"""
"""The steps of docs/operations.md at PIP_COMMIT, with its program in a virtual environment, as Debian's pip demands."""

ADDITIONS = """
hsmd key generate shop --type rsa-2048
hsmd cert self-signed shop --dns shop.example.org
hsmd client add web2 --key "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAI$(printf 'A%.0s' {1..43})"
hsmd grant add web2 shop --max-uses 10
hsmd grant add web1 shop --purpose tls13-server
hsmd key generate gone
hsmd key destroy gone --confirm gone
hsmd audit key >/root/audit-key
"""
"""More of what must still be there afterwards."""
MAY_CHANGE = ("last_seen",)
MODULE_WRITES = "[Service]\nReadWritePaths=/var/lib/softhsm/tokens\n"
"""The drop-in for a module that writes: SoftHSM's directory was not found by the earlier ones, nor is it by packages."""


def upgrade_pip(suite: str, wheel: Path, report: Report) -> None:
    """A pip installation of an earlier commit is upgraded, taken back, and upgraded again, by docs/day2.md."""
    with Bed() as bed:
        source = bed.directory / "wheels"
        source.mkdir(mode=0o755)
        with report.step(suite, "upgrade-pip", f"wheel of {PIP_COMMIT}"):
            old_wheel(source)
        needs = {
            "key": ("softhsm2", "opensc"),
            "front": ("nginx-light",),
            "operator": (),
        }
        files = {name: roots.debian(suite, *packages) for name, packages in needs.items()}
        site = Site(bed, suite, files, {source: HSMD_SOURCE})
        bed.boot()
        journey = PipUpgrade(site, report)
        journey.set_up()
        for file in source.iterdir():
            file.unlink()
        for file in wheel.iterdir():
            shutil.copy(file, source)
        journey.upgrade("upgrade")
        journey.use_old_files()
        journey.go_back("upgrade-back")
        journey.upgrade("upgrade")
        report.document(site, "upgrade-done")
        serves(site, report, "upgrade-pip")


class Upgrade:
    """What all upgrades have in common: what must hold before and after."""

    name = ""
    which = "hsmd --version"
    """Says which hsmd is installed."""

    def __init__(self, site: Site, report: Report) -> None:
        self.site, self.report = site, report
        self.before: dict[str, dict[str, object]] = {}
        self.version = ""

    def remember(self) -> None:
        """Note what must still be there afterwards, and a checkpoint of the log."""
        with self.report.step(self.site.name, self.name, "key: more keys, clients and grants"):
            self.site.key.sh(ADDITIONS)
            self.before = state(self.site.key)
        wait_for_handshake(self.site)
        self.site.key.run("hsmd", "audit", "checkpoint", "--out", "/root/checkpoint")
        self.version = self.site.key.sh(self.which).strip()

    def upgrade(self, *journeys: str) -> None:
        """The documents' steps, while clients are at work."""
        with self.site.clients() as seen:
            clients_at_work(self.site)
            for journey in journeys:
                self.report.document(self.site, journey)
            wait_for_handshake(self.site)
        with self.report.step(self.site.name, self.name, "clients, meanwhile") as notes:
            notes.append(outage(seen))
        self.check(new=True)

    def go_back(self, journey: str) -> None:
        """To the earlier hsmd and its store, in which limited grants wait for their new total, as after each restore."""
        with self.site.clients() as seen:
            clients_at_work(self.site)
            self.report.document(self.site, journey)
            wait_for_handshake(self.site)
        with self.report.step(self.site.name, self.name, "clients, meanwhile") as notes:
            notes.append(outage(seen, BACK_S))
        self.site.key.run("hsmd", "grant", "add", "web2", "shop", "--max-uses", "10")
        self.check(new=False)

    def check(self, *, new: bool) -> None:
        """The new or the old hsmd serves; everything is still there; checks and the log are good."""
        with self.report.step(self.site.name, self.name, "keys, clients, grants, audit log") as notes:
            site = self.site
            versions = {host.sh(self.which).strip() for host in (site.key, site.front)}
            assert len(versions) == 1 and (self.version not in versions) == new, versions
            notes.append(versions.pop())
            wait_for_handshake(site)
            for host in site.hosts.values():
                if host is not site.front:
                    host.run("hsmd", "status")
            site.front.run("hsmd", "agent", "check", *([] if new else ["www"]))
            gone = lost(self.before, state(site.key))
            assert not gone, "\n".join(gone)
            verify = (
                "hsmd",
                "audit",
                "verify",
                "--public-key",
                "/root/audit-key",
                "--checkpoint",
                "/root/checkpoint",
            )
            said = site.key.run(*verify).stdout
            site.key.run(*verify, "--log", "/var/lib/hsmd/audit")
            notes.append(" ".join(said.split())[:160])
            healthy(site)


class PipUpgrade(Upgrade):
    """From pip to pip."""

    name = "upgrade-pip"

    def set_up(self) -> None:
        """The earlier commit serves, set up as it was documented."""
        site, name = self.site, self.name
        with self.report.step(site.name, name, "key: the vendor's module and a token"):
            site.make_token()
            site.key.write("/etc/systemd/system/hsmd.service.d/module.conf", MODULE_WRITES)
        for host, script, token in (
            ("key", OLD_KEY, ""),
            ("front", OLD_FRONT, "web1"),
            ("operator", OLD_OPERATOR, "bob"),
        ):
            with self.report.step(site.name, name, f"{host}: installation of {PIP_COMMIT}"):
                install = OLD_INSTALL.format(what="hsmd" if token else "hsmd[daemon]")
                site.hosts[host].sh(install, online=True, variables=SOURCES, timeout_s=600)
            with self.report.step(site.name, name, f"{host}: set-up of {PIP_COMMIT}"):
                if token:
                    site.key.copy(site.hosts[host], f"/root/{token}.token", f"/root/{token}.token", "600")
                site.hosts[host].sh(script, text=SECRETS["PIN"] + "\n")
        site.front.run("systemctl", "enable", "nginx")
        serves(site, self.report, name)
        self.remember()
        assert PIP_VERSION in self.version

    def use_old_files(self) -> None:
        """The units and agent.toml of the earlier hsmd work with the new program."""
        site = self.site
        olds = {
            "key": ("hsmd", ("/etc/systemd/system/hsmd.service",)),
            "front": ("hsmd-agent", ("/etc/systemd/system/hsmd-agent.service", "/etc/hsmd/agent.toml")),
        }
        with self.report.step(site.name, self.name, "units and agent.toml of before, with the new program"):
            for name, (unit, files) in olds.items():
                for file in files:
                    site.hosts[name].sh(
                        f"cp -a {file} {file}.new; cp -a /opt/hsmd.before/{Path(file).name} {file}"
                    )
                site.hosts[name].sh(f"systemctl daemon-reload; systemctl restart {unit}")
        self.check(new=True)
        for name, (unit, files) in olds.items():
            for file in files:
                site.hosts[name].run("mv", f"{file}.new", file)
            site.hosts[name].sh(f"systemctl daemon-reload; systemctl restart {unit}")


def upgrade_packages(suite: str, _wheel: Path, report: Report) -> None:
    """The first Debian packages are upgraded, removed, installed again and purged, by docs/day2.md."""
    with Bed() as bed:
        with report.step(suite, "upgrade-packages", f"packages of {PACKAGES_COMMIT}"):
            old = packages_of(PACKAGES_COMMIT, suite)
        with report.step(suite, "upgrade-packages", "packages of this tree"):
            new = built(ROOT, suite, bed.directory / "packages")
        python, libssl = RELEASES[suite][1:]
        files = {
            "key": roots.debian(suite, "softhsm2", "opensc"),
            "front": roots.debian(suite, "adduser", python, libssl, "nginx-light"),
        }
        site = Site(bed, suite, files)
        bed.boot()
        PackagesUpgrade(site, report, old, new).travel()


class PackagesUpgrade(Upgrade):
    """From Debian packages to Debian packages."""

    name = "upgrade-packages"
    which = "dpkg-query --show --showformat='${Version}' hsmd-agent"

    def __init__(self, site: Site, report: Report, old: list[Path], new: list[Path]) -> None:
        super().__init__(site, report)
        self.old, self.new = old, new

    def travel(self) -> None:
        """All of it."""
        self.set_up()
        self.deliver(self.new)
        self.upgrade("upgrade-packages")
        self.deliver(self.old)
        self.go_back("upgrade-packages-back")
        self.deliver(self.new)
        self.upgrade("upgrade-packages")
        self.remove()

    def deliver(self, files: list[Path]) -> None:
        """Bring packages to the hosts, in place of others."""
        for host, wanted in ((self.site.key, files), (self.site.front, files[:1])):
            host.sh("rm -f /root/*.deb")
            for file in wanted:
                host.put(file, f"/root/{file.name}")

    def set_up(self) -> None:
        """The earlier packages, set up by their own documents."""
        site, name = self.site, self.name
        with self.report.step(site.name, name, "key: the vendor's module and a token"):
            site.make_token()
            site.key.write("/etc/systemd/system/hsmd.service.d/module.conf", MODULE_WRITES)
        self.deliver(self.old)
        with self.report.step(site.name, name, f"apt installs packages of {PACKAGES_COMMIT}"):
            for host in (site.key, site.front):
                apt(host, "install", "./*.deb")
        for page, journey in (("install.md", "setup"), ("servers.md", "servers-nginx")):
            text = shown(PACKAGES_COMMIT, f"docs/{page}")
            for step in read(text, page):
                if step.journey == journey:
                    self.report.done(site, without_unneeded(step))
        site.front.run("systemctl", "enable", "nginx")
        serves(site, self.report, name)
        self.remember()

    def remove(self) -> None:
        """A removal keeps data, with which packages that are installed again serve; a purge leaves what the documents say."""
        site, key, front = self.site, self.site.key, self.site.front
        kept = data(key)
        self.report.document(site, "packages-removal")
        with self.report.step(site.name, self.name, "nothing runs, and data is kept"):
            for host in (key, front):
                assert not host.exists("/usr/bin/hsmd") and not host.exists("/usr/lib/hsmd"), host.name
                running = host.sh("pgrep -fa '^/usr/lib/hsmd/' || true")
                assert running == "", f"{host.name}: {running}"
            assert data(key) == kept, data(key) ^ kept
        with self.report.step(site.name, self.name, "packages are installed again"):
            for host in (front, key):
                apt(host, "install", "./*.deb")
        self.check(new=True)
        self.report.document(site, "packages-purge")
        with self.report.step(site.name, self.name, "what a purge leaves") as notes:
            left = data(key)
            assert kept - left == {"/etc/hsmd/hsmd.toml"}, kept - left
            assert "/etc/hsmd/hsmd.toml.purged" in left
            leaves = front.sh("find /etc/hsmd /var/lib/hsmd-agent* -maxdepth 1 2>/dev/null || true")
            assert leaves == "", leaves
            notes.append(
                f"key host: {len(left)} files of store, log, token and configuration; front end: none"
            )


def old_wheel(directory: Path) -> None:
    """A wheel of PIP_COMMIT as PIP_VERSION, and a constraint that makes pip take it."""
    with tempfile.TemporaryDirectory(prefix="hsmd-old-") as tree:
        packed = subprocess.run(["git", "-C", ROOT, "archive", PIP_COMMIT], capture_output=True, check=False)
        assert packed.returncode == 0, f"commit {PIP_COMMIT} is not there: {packed.stderr.decode()}"
        subprocess.run(["tar", "--extract", "--directory", tree], input=packed.stdout, check=True)
        for name, line in (("pyproject.toml", "version"), ("hsmd/__init__.py", "__version__")):
            path = Path(tree, name)
            text, count = re.subn(
                rf'^{line} = ".*"', f'{line} = "{PIP_VERSION}"', path.read_text(), flags=re.MULTILINE
            )
            assert count == 1, name
            path.write_text(text)
        build = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-build-isolation", "--no-deps", "--wheel-dir", directory, tree]  # fmt: skip
        done = subprocess.run(build, capture_output=True, text=True, timeout=300, check=False)
        assert done.returncode == 0, f"no wheel:\n{done.stderr[-3000:]}"
    (directory / "constraints").write_text(f"hsmd=={PIP_VERSION}\n")


def packages_of(commit: str, suite: str) -> list[Path]:
    """The packages of a commit, built by its own scripts/package the first time."""
    directory = roots.CACHE / f"packages-{commit}-{suite}"
    if not directory.exists():
        with tempfile.TemporaryDirectory(prefix="hsmd-old-", dir=roots.CACHE) as parent:
            tree, made = Path(parent) / "tree", Path(parent) / "packages"
            subprocess.run(["git", "clone", "--quiet", "--shared", "--no-checkout", ROOT, tree], check=True)
            subprocess.run(["git", "-C", tree, "checkout", "--quiet", "--detach", commit], check=True)
            built(tree, suite, made)
            if not directory.exists():
                made.rename(directory)
    return sorted(directory.glob("*.deb"))


def built(tree: Path, suite: str, directory: Path) -> list[Path]:
    """Build the packages of a tree for one release: hsmd-agent and hsmd. One process at a time builds in a root file system."""
    build = [tree / "scripts/package", "--roots", roots.CACHE / "packages", "--out", directory, suite]
    with (roots.CACHE / f".packages-{suite}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        done = subprocess.run(build, capture_output=True, text=True, timeout=1800, check=False)
    assert done.returncode == 0, f"no packages:\n{done.stderr[-3000:]}"
    files = sorted(directory.glob("*.deb"))
    assert len(files) == 2, files
    return files


def shown(commit: str, path: str) -> str:
    """A file as it was at a commit."""
    done = subprocess.run(
        ["git", "-C", ROOT, "show", f"{commit}:{path}"], capture_output=True, text=True, check=True
    )
    return done.stdout


def apt(host: Host, *words: str) -> None:
    """apt-get in root's directory, with the servers of packages."""
    command = "cd; apt-get update -qq; apt-get -qq -y " + " ".join(words)
    host.sh(command, online=True, variables={"DEBIAN_FRONTEND": "noninteractive"}, timeout_s=300)


def state(key: Host) -> dict[str, dict[str, object]]:
    """Every key, client and grant, by what identifies it."""
    found: dict[str, dict[str, object]] = {}
    for kind, names in (("key", ("name",)), ("client", ("name",)), ("grant", ("client", "key", "purpose"))):
        listed = json.loads(key.run("hsmd", kind, "list", "--json").stdout)
        rows = next(iter(listed.values())) if isinstance(listed, dict) else listed
        found |= {" ".join([kind, *(str(row.get(name)) for name in names)]): row for row in rows}
    destroyed = json.loads(key.run("hsmd", "key", "list", "--destroyed", "--json").stdout)
    found["destroyed"] = {"rows": destroyed}
    return found


def lost(before: dict[str, dict[str, object]], now: dict[str, dict[str, object]]) -> list[str]:
    """What is not there any more, or has changed."""
    changed = [name for name in before if name not in now]
    for name, row in before.items():
        changed += [
            f"{name}: {member} was {value!r}, is {now[name].get(member)!r}"
            for member, value in row.items()
            if name in now and member not in MAY_CHANGE and now[name].get(member) != value
        ]
    return changed


def outage(seen: Clients, within_s: float = OUTAGE_S) -> str:
    """What clients saw of a front end whose only daemon was restarted."""
    told = f"{seen.handshakes} handshakes, {sum(seen.failures.values())} failed, {seen.outage_s:.1f} s without one"
    assert seen.outage_s < within_s, f"{told}: {dict(seen.failures)}"
    return told


JOURNEYS: dict[str, Callable[[str, Path, Report], None]] = {
    "upgrade-pip": upgrade_pip,
    "upgrade-packages": upgrade_packages,
}
"""Journeys with hosts of their own: on a release, with the directory of this tree's wheel."""
