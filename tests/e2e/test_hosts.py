"""Two hosts with a systemd of their own: the shipped units start, and serve a handshake; then nothing is left."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.hosts import Bed, requirements, roots
from tests.support.hosts.site import Site
from tests.support.polling import wait_until
from tests.support.processes import ROOT

_KILLED = """
import sys
from tests.support.hosts import Bed, roots

bed = Bed()
bed.host("alone", roots.machine(), {bed.network("10.9.0.254/24"): "10.9.0.1"})
bed.boot()
print(bed.hosts[0].pid, flush=True)
sys.stdin.read()
"""


def left_by(pid: int) -> list[Path]:
    """cgroups and directories that a test made."""
    places = (requirements.cgroup_mount(), Path(tempfile.gettempdir()))
    return [path for place in places for path in place.glob(f"hsmd-hosts-{pid}-*")]


def test_nothing_is_left_of_a_test_that_was_killed() -> None:
    test = subprocess.Popen(
        [sys.executable, "-c", _KILLED],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    assert test.stdin is not None
    assert test.stdout is not None
    with test.stdin, test.stdout:
        init = int(test.stdout.readline())
        assert Path(f"/proc/{init}/comm").read_text() == "systemd\n"
        assert left_by(test.pid)
        test.send_signal(signal.SIGKILL)
        test.wait()
    wait_until(lambda: not os.path.exists(f"/proc/{init}"), "the host ends with the test")
    with Bed():
        assert left_by(test.pid) == []


UNITS = {"key": ["hsmd"], "front": ["hsmd-agent", "nginx"]}
STRICT = "[Service]\nSystemCallErrorNumber=\n"
"""The process gets SIGSYS for a system call that its unit forbids, not an error that it may swallow."""
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
FORBIDDEN = ("not permitted", "Permission denied", "Read-only file system", "status=31/SYS")
"""What a journal says when a unit forbids what its program does."""


@pytest.fixture(scope="module")
def hosts() -> Iterator[Site]:
    """A key host and a front end, set up by the commands of docs/install.md; nginx serves the documents' key."""
    with Bed() as bed:
        site = Site(bed, "gate", {"key": roots.machine(), "front": roots.machine()})
        bed.boot()
        for host, unit in ((site.key, "hsmd"), (site.front, "hsmd-agent")):
            host.install_hsmd()
            host.write(f"/etc/systemd/system/{unit}.service.d/strict.conf", STRICT)
        site.make_token()
        site.do("setup")
        site.front.sh(NGINX)
        yield site


def check(site: Site) -> None:
    """All units run, a client makes a handshake, and nothing was forbidden."""
    wait_until(lambda: site.handshake().returncode == 0, "a handshake succeeds")
    for name, units in UNITS.items():
        for unit in units:
            host = site.hosts[name]
            journal = host.journal(unit)
            assert host.active(unit), journal
            assert [line for line in journal.splitlines() if any(text in line for text in FORBIDDEN)] == []


def test_the_units_start_and_forbid_nothing_that_their_programs_do(hosts: Site) -> None:
    check(hosts)
    hosts.key.run("systemctl", "reload", "hsmd")
    hosts.front.run("systemctl", "reload", "hsmd-agent")
    check(hosts)


def test_a_group_for_the_socket_is_set_by_the_agent_under_its_unit(hosts: Site) -> None:
    front = hosts.front
    front.sh("""
        sed -i 's/^\\[agent\\]$/&\\ngroup = "www-data"/' /etc/hsmd/agent.toml
        hsmd agent install systemd --user hsmd-agent
        systemctl daemon-reload
        systemctl restart hsmd-agent
    """)
    assert front.sh("stat -c %G /run/hsmd/agent.sock") == "www-data\n"
    check(hosts)


RENEWED_S = 10.0
"""Within which docs/servers.md says that servers present a renewed certificate."""


def certificate(site: Site) -> str:
    """Serial number and end of the certificate that clients get; empty if the handshake fails."""
    return site.front.run(
        "bash", "-c",
        "openssl s_client -connect 127.0.0.1:443 -servername www.example.org </dev/null 2>/dev/null"
        " | openssl x509 -noout -serial -enddate",
        check=False,
    ).stdout  # fmt: skip


def test_a_renewed_certificate_is_served_without_a_person(hosts: Site) -> None:
    """The path unit starts what installs it, which reloads nginx: it was set up without any list of servers."""
    before = certificate(hosts)
    assert "serial=" in before
    workers = hosts.front.run("pgrep", "--parent", hosts.front.property("nginx", "MainPID")).stdout
    hosts.key.run("hsmd", "cert", "self-signed", "www", "--dns", "www.example.org", "--days", "77")
    began = time.monotonic()
    wait_until(lambda: certificate(hosts) not in ("", before), "nginx presents the new one", 30)
    assert time.monotonic() - began < RENEWED_S
    assert hosts.front.run("pgrep", "--parent", hosts.front.property("nginx", "MainPID")).stdout != workers
    journal = hosts.front.journal("hsmd-agent-deploy")
    assert "installed: www" in journal
    assert "reloaded: nginx" in journal
    assert [line for line in journal.splitlines() if any(text in line for text in FORBIDDEN)] == []
    assert hosts.front.property("hsmd-agent-deploy", "Result") == "success"
    check(hosts)


def test_haproxy_serves_from_its_chroot_by_the_document(hosts: Site) -> None:
    """And `agent check` finds what nothing else shows: HAProxy loads keys before it enters the chroot, and uses them after."""
    front = hosts.front
    front.run("systemctl", "stop", "nginx")
    hosts.do("servers-haproxy")
    wait_until(lambda: hosts.handshake().returncode == 0, "HAProxy serves")
    front.run("systemctl", "restart", "hsmd-agent")
    wait_until(lambda: hosts.handshake().returncode == 0, "HAProxy serves with a new socket")
    front.sh("""
        sed -i /^BindReadOnlyPaths/d /etc/systemd/system/haproxy.service.d/hsmd.conf
        systemctl daemon-reload
        systemctl restart haproxy
    """)
    assert hosts.handshake().returncode != 0
    checked = front.run("hsmd", "agent", "check", check=False)
    assert (checked.returncode, "the chroot hides the socket" in checked.stdout) == (4, True), checked.stdout
    front.sh(
        "hsmd agent install haproxy --key www --yes && systemctl daemon-reload && systemctl restart haproxy"
    )
    wait_until(lambda: hosts.handshake().returncode == 0, "HAProxy serves again")
    hosts.do("servers-haproxy-remove")
    assert front.sh("find /etc/hsmd/haproxy /etc/systemd/system/haproxy.service.d 2>/dev/null || true") == ""
    front.run("systemctl", "stop", "haproxy")
    front.run("systemctl", "start", "nginx")
    check(hosts)
