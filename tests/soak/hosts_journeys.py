"""The journeys of `scripts/soak hosts`, in the order in which they are done: what an operator does, and what must hold then."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Callable

from tests.soak.hosts_steps import Report
from tests.support.hosts.documents import MODULE, SECRETS, TOKEN_LABEL, steps
from tests.support.hosts.host import Host, built_provider
from tests.support.hosts.site import Clients, Site
from tests.support.polling import wait_until

SERVES_S = 15.0
"""After everything has been restarted, handshakes succeed within this time."""
OUTAGE_S = 3.0
"""The agent may be without its only daemon for this time when it connects again."""
RENEWED_S = 10.0
WORKERS = 3
"""Of a daemon as `hsmd init` configures it: for signing, spare, control."""
SERVERS = ("nginx", "haproxy", "postgresql", "apache2")
UNITS = {"key": ["hsmd"], "front": ["hsmd-agent", "nginx"]}
FORBIDDEN = ("not permitted", "Permission denied", "Read-only file system", "Traceback", "status=31/SYS")
"""What a journal says when a unit forbids what its program does, or a program has a fault."""


def setup(site: Site, report: Report) -> None:
    """From bare hosts to nginx that serves, by docs/install.md and docs/servers.md."""
    with report.step(site.name, "setup", "key: the vendor's module and a token"):
        site.make_token()
    site.front.run("systemctl", "disable", "--now", *SERVERS)
    if is_quick(site):
        with report.step(site.name, "setup", "hsmd is copied"):
            for name in ("key", "front", "operator"):
                site.hosts[name].install_hsmd()
    else:
        report.document(site, "install")
    with report.step(site.name, "setup", "what was installed is of this tree"):
        for host in (site.key, site.front):
            host.put(built_provider(), "/root/expected.so")
            host.sh("cmp /root/expected.so /opt/hsmd/lib/python3*/site-packages/hsmd/provider/hsmd.so")
    report.document(site, "setup")
    report.document(site, "servers-nginx")
    site.front.run("systemctl", "enable", "nginx")  # as Debian's package does
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


def servers(site: Site, report: Report) -> None:
    """HAProxy, Apache and PostgreSQL by docs/servers.md, each taken back again; then nginx anew."""
    report.document(site, "servers-nginx-remove")
    site.front.run("systemctl", "stop", "nginx")
    for server in ("haproxy", "apache", "postgresql", "nginx"):
        report.document(site, f"servers-{server}")
        with report.step(site.name, "servers", f"client: a handshake with {server}"):
            if server == "postgresql":
                site.front.sh("openssl s_client -starttls postgres -connect 127.0.0.1:5432 -brief </dev/null")
            else:
                wait_for_handshake(site)
        if server != "nginx":
            report.document(site, f"servers-{server}-remove")
            site.front.run("systemctl", "stop", SERVERS[-1] if server == "apache" else server)
    serves(site, report, "servers")


def renewal(site: Site, report: Report) -> None:
    """A renewed certificate: served within ten seconds without a person, and no handshake fails."""
    before = served(site)
    with site.clients() as seen:
        clients_at_work(site)
        site.key.run("hsmd", "cert", "self-signed", "www", "--dns", "www.example.org")
        with report.step(site.name, "renewal", "the front end serves the new certificate"):
            wait_until(lambda: served(site) != before, "the new certificate is served", RENEWED_S)
    with report.step(site.name, "renewal", "clients") as notes:
        notes.append(flawless(seen))
        assert len(seen.certificates) == 2
    report.document(site, "renewal")
    serves(site, report, "renewal")


AUTHORITY = """
openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout /srv/ca.key -out /srv/ca.pem -days 30 \\
    -subj '/CN=Test CA' -addext keyUsage=critical,keyCertSign
"""
ISSUE = """
openssl x509 -req -in /root/www.csr -CA /srv/ca.pem -CAkey /srv/ca.key -days 20 -copy_extensions copy -out /srv/leaf.pem
cat /srv/leaf.pem /srv/ca.pem >/root/fullchain.pem
"""


def replacement(site: Site, report: Report) -> None:
    """A certificate of a CA, then a new key for the same name: no handshake fails, and the old key is destroyed."""
    with report.step(site.name, "replacement", "key: a CA"):
        site.key.sh(AUTHORITY)
    with site.clients() as seen:
        clients_at_work(site)
        for steps_of_request, steps_of_answer in (
            ("certificate-request", "certificate-import"),
            ("replace-request", "replace-switch"),
        ):
            before = served(site)
            report.document(site, steps_of_request)
            site.key.sh(ISSUE)
            report.document(site, steps_of_answer)
            with report.step(site.name, "replacement", "the front end serves the new certificate") as notes:
                took = wait_until(lambda old=before: served(site) != old, "it is served", RENEWED_S)
                notes.append(f"after {took:.1f} s")
        wait_until(lambda: reported(site), "the front end has reported it", SERVES_S)
        report.document(site, "replace-progress")
        with report.step(site.name, "replacement", "key: the old key is destroyed"):
            shown = json.loads(site.key.run("hsmd", "key", "show", "www", "--json").stdout)
            site.key.run(
                "hsmd", "key", "replace", "www", "--finish", "--confirm", shown["replacement"]["key"]
            )
    with report.step(site.name, "replacement", "clients") as notes:
        notes.append(flawless(seen))
    serves(site, report, "replacement")


def reported(site: Site) -> bool:
    """Whether all front ends have reported that they serve the present certificate of www."""
    shown = json.loads(site.key.run("hsmd", "key", "show", "www", "--json").stdout)
    found = [each["state"] for each in shown["served_by"]]
    return bool(found) and set(found) == {"current"}


def monitoring(site: Site, report: Report) -> None:
    """Health as docs/monitoring.md shows it."""
    report.document(site, "monitoring")


def served(site: Site) -> str:
    """The certificate that the front end shows."""
    done = site.public.run(
        "openssl", "s_client", "-connect", f"{site.public_address}:443", "-servername", "www.example.org"
    )
    return done.stdout.partition("-----BEGIN CERTIFICATE-----")[2].partition("-----END")[0]


def pin(site: Site, report: Report) -> None:
    """A new PIN: no try is wasted, no handshake fails."""
    with report.step(site.name, "pin", "clients at work"), site.clients() as seen:
        clients_at_work(site)
        for step in steps("pin"):
            if step.kind == "type":
                with report.step(site.name, "pin", "key: the vendor's tool changes the PIN"):
                    site.key.run(
                        "runuser", "--user", "hsmd-token", "--", "pkcs11-tool", "--module", MODULE, "--token-label", TOKEN_LABEL,
                        "--login", "--pin", SECRETS["PIN"], "--change-pin", "--new-pin", SECRETS["NEWPIN"],
                    )  # fmt: skip
            report.done(site, step)
    flawless(seen)
    serves(site, report, "pin")


def agent_key(site: Site, report: Report) -> None:
    """A new key for the agent, while a client makes handshakes."""
    with site.clients() as seen:
        clients_at_work(site)
        report.document(site, "rotate-agent")
        wait_for_handshake(site)
    with report.step(site.name, "agent-key", "clients") as notes:
        notes.append(short_outage(seen))
    serves(site, report, "agent-key")


def operator_key(site: Site, report: Report) -> None:
    """A second operator on a computer of its own, who then gets a new key."""
    report.document(site, "operator")
    report.document(site, "rotate-operator")
    with report.step(site.name, "operator-key", "operator: hsmd status"):
        site.hosts["operator"].run("hsmd", "status")


def host_key(site: Site, report: Report) -> None:
    """A new host key for the daemon, pinned before it is used, while a client makes handshakes."""
    with site.clients() as seen:
        clients_at_work(site)
        report.document(site, "rotate-host")
        wait_for_handshake(site)
    with report.step(site.name, "host-key", "clients") as notes:
        notes.append(short_outage(seen))
    with report.step(site.name, "host-key", "front: the agent connects with the new key alone"):
        site.front.run("systemctl", "restart", "hsmd-agent")
    serves(site, report, "host-key")


def enrolment(site: Site, report: Report) -> None:
    """A front end that lost its key is enrolled again under its name."""
    report.document(site, "reenrol")
    serves(site, report, "enrolment")


def archive(site: Site, report: Report) -> None:
    """The timer that archives the audit log."""
    report.document(site, "archive")
    with report.step(site.name, "archive", "key: the service runs"):
        site.key.run("systemctl", "start", "hsmd-archive.service")
        assert site.key.property("hsmd-archive.service", "Result") == "success"
    serves(site, report, "archive")


def daemons(site: Site, report: Report) -> None:
    """A second daemon on a shared database; one of the two is killed, stopped, cut off, while a client makes handshakes."""
    second = site.hosts["key2"]
    if is_quick(site):
        second.install_hsmd()
    else:
        report.document(site, "postgresql-install")
        report.document(site, "second-install")
    report.document(site, "postgresql")
    serves(site, report, "daemons")
    report.document(site, "second")
    with report.step(site.name, "daemons", "front: both are connected"):
        wait_until(lambda: both_connected(site), "the agent is connected to both daemons", SERVES_S)
    for title, harm, cure in (
        ("the first is killed", lambda: kill(site.key), lambda: None),
        ("the second is killed", lambda: kill(second), lambda: None),
        (
            "the first is stopped",
            lambda: site.key.run("systemctl", "stop", "hsmd"),
            lambda: site.key.run("systemctl", "start", "hsmd"),
        ),
        (
            "the second is stopped",
            lambda: second.run("systemctl", "stop", "hsmd"),
            lambda: second.run("systemctl", "start", "hsmd"),
        ),
        ("the first one's host reboots", site.key.reboot, lambda: None),
        ("the first one's host loses its power", lambda: power_cut(site.key), lambda: None),
    ):
        with report.step(site.name, "daemons", title) as notes:
            with site.clients() as seen:
                clients_at_work(site)
                harm()
                cure()
                wait_until(lambda: both_connected(site), "the agent is connected to both daemons", 60.0)
            assert not seen.failures, f"{seen.handshakes} handshakes, failed: {seen.failures}"
            notes.append(
                f"{seen.handshakes} handshakes, none failed, the longest {seen.longest_s * 1000:.0f} ms"
            )
            healthy(site)


def backup(site: Site, report: Report) -> None:
    """The key host lost and restored from its backup, token and host key apart."""
    key = site.key
    report.document(site, "backup")
    with report.step(site.name, "backup", "key: everything of the daemon is gone but the PIN file"):
        key.sh("""
            systemctl disable --now hsmd
            rm -rf /var/lib/hsmd /etc/hsmd/hsmd.toml /etc/hsmd/host_ed25519* /etc/systemd/system/hsmd.service
            systemctl daemon-reload
            mv /root/hsmd-*.tar /root/hsmd.tar
        """)
    report.document(site, "restore")
    serves(site, report, "backup")


def removal(site: Site, report: Report) -> None:
    """Everything removed: nothing of hsmd runs or is left, and nginx goes on with other keys."""
    report.document(site, "servers-nginx-remove")
    if site.key.active("hsmd-archive.timer"):
        report.document(site, "removal-archive")
    report.document(site, "removal")
    with report.step(site.name, "removal", "nothing is left"):
        for host in (site.key, site.front):
            left = host.sh(
                "find / -xdev -iname '*hsmd*' -not -path '/proc/*' -not -path '/srv/*' -not -path '/root/*' -not -name 'hsmd-test-*'; pgrep -fa '^/opt/hsmd' || true"
            )
            assert left == "", f"{host.name}: {left}"
        assert site.front.active("nginx")


def both_connected(site: Site) -> bool:
    """Whether the agent is connected to both daemons."""
    status = json.loads(site.front.run("hsmd", "agent", "status", "--json", check=False).stdout or "{}")
    return sum(each.get("state") in ("in-use", "connected") for each in status.get("daemons", [])) == 2


def clients_at_work(site: Site) -> None:
    """Let the clients make some handshakes first."""
    before = site.front.run("stat", "--format=%s", "/var/log/nginx/access.log").stdout
    wait_until(
        lambda: site.front.run("stat", "--format=%s", "/var/log/nginx/access.log").stdout != before,
        "clients are served",
    )


def logged_in(host: Host) -> None:
    """Wait until all workers of the daemon have logged in: SoftHSM may lose a token whose power is cut meanwhile."""
    wait_until(lambda: idle_workers(host) == WORKERS, "all workers have logged in", SERVES_S)


def idle_workers(host: Host) -> int:
    """How many workers have logged in, by the daemon's metrics."""
    asked = host.run("wget", "--quiet", "--output-document=-", "http://127.0.0.1:9444/metrics", check=False)
    found = re.findall(r'^hsmd_workers\{state="(?:ready|spare|busy)".*\} (\d+)', asked.stdout, re.MULTILINE)
    return sum(map(int, found))


def kill(host: Host) -> None:
    """Kill all processes of the daemon; systemd starts it again."""
    logged_in(host)
    before = host.property("hsmd", "NRestarts")
    host.run("systemctl", "kill", "--signal=KILL", "hsmd")
    wait_until(
        lambda: host.property("hsmd", "NRestarts") != before and host.active("hsmd"),
        "systemd restarts the daemon",
        60.0,
    )


JOURNEYS: dict[str, Callable[[Site, Report], None]] = {
    "setup": setup,
    "restarts": restarts,
    "servers": servers,
    "renewal": renewal,
    "replacement": replacement,
    "pin": pin,
    "agent-key": agent_key,
    "operator-key": operator_key,
    "monitoring": monitoring,
    "host-key": host_key,
    "enrolment": enrolment,
    "archive": archive,
    "backup": backup,
    "daemons": daemons,
    "removal": removal,
}


def is_quick(site: Site) -> bool:
    """Whether the hosts came with a Python environment for hsmd."""
    return site.key.exists("/opt/hsmd/requirements")  # of roots.with_hsmd


def short_outage(seen: Clients) -> str:
    """What clients saw of a front end with one daemon. AssertionError if none was served for longer than a reconnection takes."""
    assert seen.outage_s < OUTAGE_S, (
        f"{seen.outage_s:.1f} s without a handshake, failed: {dict(seen.failures)}"
    )
    return f"{seen.handshakes} handshakes, {sum(seen.failures.values())} failed, {seen.outage_s:.1f} s without one"


def flawless(seen: Clients) -> str:
    """What clients saw. AssertionError if a handshake failed."""
    assert not seen.failures, f"{seen.handshakes} handshakes, failed: {dict(seen.failures)}"
    assert seen.handshakes
    return f"{seen.handshakes} handshakes, none failed, the longest {seen.longest_s * 1000:.0f} ms"


NEEDS = {"host-key": ("operator-key",), "monitoring": ("operator-key",), "daemons": ("pin",)}
"""Journeys that others must come before."""


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
    logged_in(host)
    host.power_cut()
    host.boot()
