"""The journeys of `scripts/soak hosts`, in the order in which they are done: what an operator does, and what must hold then."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable

from tests.soak.hosts_steps import Report
from tests.support.hosts.host import Host, built_provider
from tests.support.hosts.site import Site
from tests.support.polling import wait_until

SERVES_S = 15.0
"""After everything has been restarted, handshakes succeed within this time."""
UNITS = {"key": ["hsmd"], "front": ["hsmd-agent", "nginx"]}
FORBIDDEN = ("not permitted", "Permission denied", "Read-only file system", "Traceback", "status=31/SYS")
"""What a journal says when a unit forbids what its program does, or a program has a fault."""

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


def setup(site: Site, report: Report) -> None:
    """From bare hosts to nginx that serves, by docs/install.md and docs/servers.md."""
    with report.step(site.name, "setup", "key: the vendor's module and a token"):
        site.make_token()
    report.document(site, "install")
    with report.step(site.name, "setup", "what was installed is of this tree"):
        for host in (site.key, site.front):
            host.put(built_provider(), "/tmp/hsmd.so.expected")
            host.sh("cmp /tmp/hsmd.so.expected /opt/hsmd/lib/python3*/site-packages/hsmd/provider/hsmd.so")
    report.document(site, "setup")
    with report.step(site.name, "setup", "front: nginx"):
        site.front.sh(NGINX)
    serves(site, report, "setup")


def restarts(site: Site, report: Report) -> None:
    """Everything restarted in every order of two: daemon, agent, nginx, both hosts."""
    actions: dict[str, Callable[[], object]] = {
        "daemon": lambda: site.key.run("systemctl", "restart", "hsmd"),
        "agent": lambda: site.front.run("systemctl", "restart", "hsmd-agent"),
        "nginx": lambda: site.front.run("systemctl", "restart", "nginx"),
        "key host": site.key.reboot,
        "front end": site.front.reboot,
        "key host without power": lambda: power_cut(site.key),
    }
    for first, second in itertools.permutations(actions, 2):
        with report.step(site.name, "restarts", f"{first}, then {second}") as notes:
            actions[first]()
            actions[second]()
            notes.append(f"serves after {wait_for_handshake(site):.1f} s")
            healthy(site)


def backup(site: Site, report: Report) -> None:
    """The key host lost and restored from its backup, token and host key apart."""
    key = site.key
    with report.step(site.name, "backup", "key: hsmd backup, then everything of the daemon is gone"):
        key.sh("""
            hsmd backup /root/hsmd.tar --config /etc/hsmd/hsmd.toml --host-key
            systemctl stop hsmd
            rm -rf /var/lib/hsmd /etc/hsmd/hsmd.toml /etc/hsmd/host_ed25519*
        """)
    with report.step(site.name, "backup", "key: hsmd restore"):
        key.sh("""
            hsmd restore /root/hsmd.tar --config /etc/hsmd/hsmd.toml
            systemctl start hsmd
            hsmd audit discontinuity --reason 'restored from the backup' --yes
        """)
    serves(site, report, "backup")


def removal(site: Site, report: Report) -> None:
    """Everything removed: nothing of hsmd runs or is left, and nginx goes on with other keys."""
    with report.step(site.name, "removal", "key and front: services stopped, files and users removed"):
        site.front.sh("""
            rm -f /etc/nginx/conf.d/www.conf /etc/nginx/snippets/hsmd-www.conf /etc/systemd/system/nginx.service.d/hsmd.conf
            systemctl disable --now hsmd-agent
            rm -rf /etc/systemd/system/hsmd-agent.service /etc/hsmd /var/lib/hsmd-agent /opt/hsmd /usr/local/bin/hsmd
            userdel hsmd-agent
            systemctl daemon-reload
            systemctl restart nginx
        """)
        site.key.sh("""
            systemctl disable --now hsmd
            rm -rf /etc/systemd/system/hsmd.service* /etc/hsmd /var/lib/hsmd /opt/hsmd /usr/local/bin/hsmd /root/.config/hsmd
            userdel hsmd
            userdel hsmd-token
            systemctl daemon-reload
        """)
    with report.step(site.name, "removal", "nothing is left"):
        for host in (site.key, site.front):
            left = host.sh(
                "find / -xdev -iname '*hsmd*' -not -path '/proc/*' -not -path '/srv/*' -not -path '/root/*'; pgrep -fa hsmd || true"
            )
            assert left == "", f"{host.name}: {left}"
        assert site.front.active("nginx")


JOURNEYS: dict[str, Callable[[Site, Report], None]] = {
    "setup": setup,
    "restarts": restarts,
    "backup": backup,
    "removal": removal,
}


def serves(site: Site, report: Report, journey: str) -> None:
    """A client makes a handshake, and all services run."""
    with report.step(site.name, journey, "client: a handshake") as notes:
        notes.append(f"after {wait_for_handshake(site):.1f} s")
        healthy(site)


def wait_for_handshake(site: Site) -> float:
    """Wait for a handshake that succeeds; return the seconds until then."""
    return wait_until(lambda: site.handshake().returncode == 0, "a handshake succeeds", SERVES_S)


def healthy(site: Site) -> None:
    """All services run, and none has logged a fault since this was last asked."""
    for name, units in UNITS.items():
        for unit in units:
            host = site.hosts[name]
            journal = host.news(unit)
            assert host.active(unit), host.journal(unit)[-3000:]
            fault = re.search("|".join(FORBIDDEN), journal)
            assert fault is None, f"{unit} of {name} logged:\n{journal[fault.start() : fault.start() + 4000]}"


def power_cut(host: Host) -> None:
    """Cut the power and switch it on again."""
    host.power_cut()
    host.boot()
