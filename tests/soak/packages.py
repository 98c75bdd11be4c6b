"""Build the Debian packages, and install, upgrade, remove and purge them on hosts with systemd; for `scripts/soak packages`, as root.

On each release: a key host whose packages apt installs, and a front end without a network that dpkg installs them on; both are
set up by the commands of docs/install.md. Then what docs/day2.md says of upgrades, from packages and from pip, and of removal.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from threading import Event, Thread

from hsmd.cli.root import ENTRIES
from tests.support.hosts import Bed, Host, roots
from tests.support.hosts.documents import ADDRESSES, MODULE, SECRETS, TOKEN_LABEL, Step, carry_out, steps
from tests.support.hosts.site import Site
from tests.support.polling import wait_until
from tests.support.processes import ROOT

RELEASES = {"bookworm": ("deb12", "python3.11", "libssl3"), "trixie": ("deb13", "python3.13", "libssl3t64")}
NOT_WITH_PACKAGES = re.compile(r"useradd |hsmd systemd install|hsmd agent install systemd")
"""Commands of docs/install.md that hosts with packages do not need."""
SHELLS = ("bash", "bash-completion", "fish", "zsh", "man-db")
COMPLETIONS = {
    "bash": """
        . /usr/share/bash-completion/bash_completion
        COMP_WORDS=(hsmd cert self) COMP_CWORD=2 COMP_LINE='hsmd cert self' COMP_POINT=14
        _completion_loader hsmd || true
        _hsmd_completion hsmd
        echo "${COMPREPLY[@]}"
    """,
    "fish": "complete --do-complete 'hsmd cert self'",
    # What zsh shows needs a terminal: zpty(1).
    "zsh": """
        zmodload zsh/zpty
        zpty shell 'zsh -f -i'
        zpty -w shell 'autoload -U compinit && compinit -u && PS1=ready'
        zpty -w -n shell $'hsmd cert self\\t'
        for i in {1..100}; do
            zpty -r -t shell line && seen+=$line || sleep 0.1
            [[ $seen == *self-signed* ]] && break
        done
        print -r -- $seen
    """,
}
DEV = """
cd ~
mkfifo hold
hsmd dev --agent --json-ready <hold >ready.json &
exec 9>hold
until [ -s ready.json ]; do kill -0 $!; sleep 0.1; done
read -r chain reference openssl < <(/usr/lib/hsmd/bin/python3 -c '
import json
ready = json.load(open("ready.json"))
key = ready["keys"][0]
print(key["chain"], key["reference"], ready["openssl_configuration"])')
OPENSSL_CONF=$openssl openssl s_server -quiet -accept 127.0.0.1:8443 -cert "$chain" -key "$reference" &
server=$!
for try in {1..50}; do
    openssl s_client -connect 127.0.0.1:8443 -CAfile "$chain" -verify_return_error -brief </dev/null && done=yes && break
    sleep 0.1
done
kill $server
exec 9>&-
[ "${done:-}" = yes ]
"""
NGINX = """
hsmd agent export www
hsmd agent install nginx --key www
rm -f /etc/nginx/sites-enabled/*
cat >/etc/nginx/conf.d/www.conf <<END
server { listen 443 ssl; server_name www.example.org; include snippets/hsmd-www.conf; return 200 served; }
END
systemctl daemon-reload
systemctl restart nginx
"""


def main() -> None:
    """Exit with code 1 if something did not hold on a release."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--minutes")
    parser.add_argument("--seed")
    parser.add_argument("--packages", type=Path, help="use the packages in this directory")
    parser.add_argument("--release", choices=RELEASES, action="append")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="hsmd-packages-") as parent:
        packages = given.packages or built(Path(parent) / "dist")
        results = [tried(suite, packages.absolute(), Path(parent)) for suite in given.release or RELEASES]
    sys.exit(0 if all(results) else 1)


def built(directory: Path) -> Path:
    """Build all packages into `directory`."""
    started = time.monotonic()
    subprocess.run([ROOT / "scripts" / "package", "--out", directory], check=True, timeout=1800)
    print(f"built in {time.monotonic() - started:.0f} s", flush=True)
    return directory


def tried(suite: str, packages: Path, scratch: Path) -> bool:
    """Do everything on a release; return whether it held."""
    try:
        with Bed() as bed:
            Release(bed, suite, packages, scratch).run()
    except AssertionError as error:
        print(f"{suite}: FAILED: {error}", flush=True)
        return False
    return True


class Release:
    """The hosts of one release, and what is done on them."""

    def __init__(self, bed: Bed, suite: str, packages: Path, scratch: Path) -> None:
        self.suite = suite
        suffix, python, libssl = RELEASES[suite]
        self.files = sorted(packages.glob(f"*~{suffix}_*.deb"))
        assert len(self.files) == 2, f"{packages} has not two packages for {suite}: {self.files}"
        self.newer = [repacked(file, scratch / suite) for file in self.files]
        needed = ("adduser", python, libssl, "nginx-light")
        self.site = Site(
            bed,
            suite,
            {
                "key": roots.debian(suite, "softhsm2", *SHELLS),
                "front": roots.debian(suite, *needed),
                # Key host and front end in one, with hsmd in a virtual environment; `Site` gives hosts key* one token.
                "operator": roots.with_hsmd(suite, "adduser", "softhsm2", "nginx-light"),
            },
        )
        bed.boot()

    def run(self) -> None:
        """Every step, with its time."""
        steps: list[Callable[[], str]] = [
            self.install,
            self.read_manual,
            self.complete,
            self.try_it,
            self.wait_for_configuration,
            self.set_up,
            self.upgrade,
            self.remove_and_install_again,
            self.purge,
            self.follow_pip,
        ]
        for step in steps:
            started = time.monotonic()
            said = step()
            print(
                f"{self.suite}: {step.__name__.replace('_', ' ')}: {said} ({time.monotonic() - started:.0f} s)",
                flush=True,
            )

    def install(self) -> str:
        """On the key host with apt, which gets Python and libraries; on the front end with dpkg alone."""
        key, front = self.site.key, self.site.front
        for host, files in ((key, self.files), (front, self.files[:1])):
            for file in files:
                host.put(file, f"/root/{file.name}")
        key.run("apt-get", "update", "-qq", online=True, timeout_s=120)
        for step in steps("install-packages"):
            carry_out(step, self.site.hosts)
        front.sh("cd && dpkg -i ./*.deb")
        versions = {host.sh("hsmd --version").strip() for host in (key, front)}
        for host, users in ((key, ("hsmd", "hsmd-token", "hsmd-agent")), (front, ("hsmd-agent",))):
            for user in users:
                host.run("getent", "passwd", user)
        assert len(versions) == 1
        leftover = key.sh("find /usr/lib/hsmd -newer /var/lib/dpkg/info/hsmd.list -type f")
        assert leftover == "", f"running hsmd wrote below /usr/lib/hsmd: {leftover}"
        return versions.pop()

    def read_manual(self) -> str:
        """`man hsmd`, and `man hsmd NAME` for each command."""
        key = self.site.key
        if self.excluded(key):
            key.sh("cd && rm /etc/dpkg/dpkg.cfg.d/*exclud* ; dpkg -i ./*.deb")
        for name in ENTRIES:
            text = key.sh(f"MANPAGER=cat MANWIDTH=80 man hsmd {name}")
            assert f"hsmd-{name} - " in " ".join(text.split()), text
        assert "EXIT STATUS" in key.sh("MANPAGER=cat man hsmd")
        return f"{len(ENTRIES) + 1} pages"

    def excluded(self, host: Host) -> bool:
        """Whether the host's dpkg leaves manual pages out."""
        return not host.exists("/usr/share/man/man1/hsmd.1.gz")

    def complete(self) -> str:
        """A command is completed in each shell."""
        for shell, script in COMPLETIONS.items():
            options = ["-f", "-c"] if shell == "zsh" else ["-c"]
            seen = self.site.key.run(shell, *options, script).stdout
            assert "self-signed" in seen, f"{shell}: {seen!r}"
        return ", ".join(COMPLETIONS)

    def try_it(self) -> str:
        """`hsmd dev` as an ordinary user, and handshakes of OpenSSL with its key."""
        key = self.site.key
        key.run("useradd", "--create-home", "ann")
        key.sh(DEV, user="ann", timeout_s=120)
        return "handshake of openssl s_server"

    def wait_for_configuration(self) -> str:
        """Units are enabled, wait for their configuration, and are no failure."""
        for host, unit in (
            (self.site.key, "hsmd"),
            (self.site.key, "hsmd-agent"),
            (self.site.front, "hsmd-agent"),
        ):
            assert host.property(unit, "ActiveState") == "inactive"
            assert host.property(unit, "UnitFileState") == "enabled"
            host.run("systemctl", "start", unit)
            assert host.property(unit, "ConditionResult") == "no"
            assert host.property(unit, "Result") == "success"
        return "inactive, not failed"

    def set_up(self) -> str:
        """By docs/install.md, without what packages do."""
        self.make_token(self.site.key)
        for step in steps("setup"):
            carry_out(without_unneeded(step), self.site.hosts)
        self.site.front.sh(NGINX)
        assert not self.site.key.exists("/etc/systemd/system/hsmd.service")
        assert "/ossl-modules/hsmd.so" in self.site.front.read("/etc/hsmd/openssl.cnf")
        self.check()
        return "handshake of nginx"

    def make_token(self, host: Host) -> None:
        """A SoftHSM token at the documents' path, which the worker's user may use."""
        host.sh(f"""
            install -d "$(dirname {MODULE})"
            ln -sf "$(ls /usr/lib/softhsm/libsofthsm2.so /usr/lib/*/softhsm/libsofthsm2.so 2>/dev/null | head -n 1)" {MODULE}
            usermod -aG softhsm hsmd-token
            chown root:softhsm /var/lib/softhsm/tokens
            chmod 2770 /var/lib/softhsm/tokens
            runuser -u hsmd-token -- softhsm2-util --init-token --free --label {TOKEN_LABEL} --pin {SECRETS["PIN"]} --so-pin so-pin-1234
            install -d /etc/systemd/system/hsmd.service.d
            printf '[Service]\\nReadWritePaths=/var/lib/softhsm/tokens\\n' >/etc/systemd/system/hsmd.service.d/module.conf
        """)

    def check(self) -> None:
        """Both services run, and a client makes a handshake with nginx."""
        assert self.site.key.active("hsmd"), self.site.key.journal("hsmd")
        assert self.site.front.active("hsmd-agent"), self.site.front.journal("hsmd-agent")
        wait_until(lambda: self.site.handshake().returncode == 0, "a handshake succeeds", 20)

    def upgrade(self) -> str:
        """To packages of a higher version: services are restarted, nginx is not, and goes on."""
        key, front = self.site.key, self.site.front
        watched = [(key, "hsmd"), (front, "hsmd-agent"), (front, "nginx")]
        before = [host.property(unit, "MainPID") for host, unit in watched]
        counts = Handshakes(self.site)
        for host, files in ((front, self.newer[:1]), (key, self.newer)):
            host.sh("rm /root/*.deb")
            for file in files:
                host.put(file, f"/root/{file.name}")
            host.sh("cd && dpkg -i ./*.deb")
        self.check()
        made, gaps = counts.end()
        after = [host.property(unit, "MainPID") for host, unit in watched]
        assert [old == new for old, new in zip(before, after, strict=True)] == [False, False, True]
        front.run("systemctl", "reload", "nginx")
        front.run("systemctl", "restart", "nginx")
        self.check()
        assert key.sh("dpkg --audit") == ""
        return f"{made} handshakes meanwhile; failures in {gaps or 'none'}"

    def remove_and_install_again(self) -> str:
        """Services end, their data stays, and is used again."""
        key, front = self.site.key, self.site.front
        kept = data(key)
        warned = front.run("apt-get", "remove", "-qq", "-y", "hsmd-agent")
        assert "nginx.service.d/hsmd.conf" in warned.stderr + warned.stdout, warned
        key.run("apt-get", "remove", "-qq", "-y", "hsmd", "hsmd-agent")
        for host, unit in ((key, "hsmd"), (front, "hsmd-agent"), (front, "hsmd-agent-deploy.path")):
            assert not host.active(unit), unit
            assert not host.exists("/usr/bin/hsmd")
            assert not host.exists("/usr/lib/hsmd"), host.sh("find /usr/lib/hsmd")
        assert data(key) == kept
        for host in (front, key):
            host.sh("cd && dpkg -i ./*.deb")
        self.check()
        return "data kept, handshake of nginx"

    def purge(self) -> str:
        """Configuration goes; store, log, host key, PIN and token stay, and are named."""
        key, front = self.site.key, self.site.front
        kept = data(key) - {"/etc/hsmd/hsmd.toml"}
        said = key.run("apt-get", "purge", "-qq", "-y", "hsmd", "hsmd-agent")
        text = said.stdout + said.stderr
        assert all(
            f"  {path}\n" in text for path in ("/var/lib/hsmd", "/etc/hsmd/host_ed25519", "/etc/hsmd/pin")
        ), text
        assert data(key) == kept | {"/etc/hsmd/hsmd.toml.purged"}
        front.run("apt-get", "purge", "-qq", "-y", "hsmd-agent")
        left = front.sh("find /etc/hsmd /var/lib/hsmd-agent* -maxdepth 1 2>/dev/null || true")
        assert left == "", left
        return "named what it keeps"

    def follow_pip(self) -> str:
        """From a virtual environment to packages, by docs/day2.md, on a host that is both key host and front end."""
        host = self.site.hosts["operator"]
        host.install_hsmd()
        host.run("useradd", "--system", "hsmd-token")
        self.make_token(host)
        both = {"key": host, "front": host}
        for step in steps("setup"):
            carry_out(elsewhere(step), both)
        host.sh(NGINX)
        self.serves(host)
        kept, chain = data(host), host.read("/etc/hsmd/keys/www.pem")
        for file in self.files:
            host.put(file, f"/root/{file.name}")
        said = host.run("bash", "-c", "cd && dpkg -i ./*.deb").stderr
        for name in ("hsmd.service", "hsmd-agent.service"):
            assert (
                f"sed -i 's#^ExecStart=[^ ]*#ExecStart=/usr/bin/hsmd#' /etc/systemd/system/{name}" in said
            ), said
        assert "/opt/hsmd/lib" in said and "rm /usr/local/bin/hsmd" in said, said
        self.serves(host)
        for step in steps("pip-to-packages"):
            carry_out(elsewhere(step), both)
        for unit in ("hsmd", "hsmd-agent"):
            assert "path=/usr/bin/hsmd" in host.property(unit, "ExecStart")
        self.serves(host)
        again = host.run("bash", "-c", "cd && dpkg -i ./*.deb").stderr
        assert "another installation" not in again, again
        host.sh("hsmd status")
        assert kept <= data(host) and chain == host.read("/etc/hsmd/keys/www.pem")
        return "handshake of nginx, data kept"

    def serves(self, host: Host) -> None:
        """A client makes a handshake with nginx on `host`."""
        address = f"{self.site.hosts['operator'].addresses[self.site.dedicated]}:443"
        client = ("openssl", "s_client", "-connect", address, "-servername", "www.example.org", "-brief")
        wait_until(
            lambda: self.site.dedicated.run(*client, timeout_s=20).returncode == 0, f"{host.name} serves", 20
        )


class Handshakes:
    """Handshakes one after the other, in a thread."""

    def __init__(self, site: Site) -> None:
        self._site, self._ended = site, Event()
        self._results: list[tuple[float, bool]] = []
        self._thread = Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        while not self._ended.is_set():
            good = self._site.handshake().returncode == 0
            self._results.append((time.monotonic(), good))

    def end(self) -> tuple[int, str]:
        """Stop; (how many were made, how long without one that succeeded, each time)."""
        self._ended.set()
        self._thread.join()
        gaps, since = [], 0.0
        for moment, good in self._results:
            if not good:
                since = since or moment
            elif since:
                gaps.append(f"{moment - since:.1f} s")
                since = 0.0
        return len(self._results), ", ".join(gaps)


def without_unneeded(step: Step) -> Step:
    """`step` without the commands that packages make unnecessary."""
    lines = [line for line in step.text.splitlines() if not NOT_WITH_PACKAGES.match(line)]
    return Step(step.place, step.kind, step.host, step.journey, "\n".join(lines), step.typed, step.carried)


def elsewhere(step: Step) -> Step:
    """`step` with the address of the host that has all in one."""
    text = step.text.replace(ADDRESSES["key"], ADDRESSES["operator"])
    return Step(step.place, step.kind, step.host, step.journey, text, step.typed, step.carried)


def data(host: Host) -> set[str]:
    """Paths of what is on a key host besides packages: configuration, secrets, store and log, token."""
    return set(
        host.sh(
            "find /etc/hsmd /var/lib/hsmd /var/lib/softhsm -type f ! -name '*-wal' ! -name '*-shm'"
        ).splitlines()
    )


def repacked(file: Path, directory: Path) -> Path:
    """The package `file` with a higher version. dpkg replaces each of its files, also by the same."""
    tree = directory / "tree"
    directory.mkdir(exist_ok=True)
    subprocess.run(["dpkg-deb", "--raw-extract", file, tree], check=True, timeout=120)
    control = tree / "DEBIAN" / "control"
    control.write_text(re.sub(r"(Version: |hsmd-agent \(= )", r"\g<1>9", control.read_text()))
    made = directory / file.name.replace("_", "_9", 1)
    subprocess.run(
        ["dpkg-deb", "--root-owner-group", "-Znone", "--build", tree, made],
        check=True,
        timeout=120,
        stdout=subprocess.DEVNULL,
    )
    subprocess.run(["rm", "-rf", tree], check=True)
    return made


if __name__ == "__main__":
    main()
