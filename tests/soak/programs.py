"""TLS programs of the distribution with keys in the token, each as its package runs it: its user, its chroot; for `scripts/soak programs`.

    scripts/soak programs                    every program that is installed
    scripts/soak programs --only lighttpd    one; may be repeated
    scripts/soak programs --list             names and packages
    scripts/soak programs --root DIR         the programs of another release, installed in a root of scripts/debian-root

Each program loads key references that `hsmd agent export` wrote, with a P-256 key and with an RSA key, and makes handshakes
under TLS 1.3 and TLS 1.2; each must be in the audit log. Those that cannot must say so in the words of docs/servers.md.
Nothing is installed, and no service of the machine is touched: what is missing is named with its package. As root, because
programs change their user and enter a chroot.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.support.front_end import HOST
from tests.support.network import free_port
from tests.support.processes import Process, hsmd, run
from tests.support.site import KeyPlan, Site

KEYS = ("p256", "rsa")
VERSIONS = {"1.3": "-tls1_3", "1.2": "-tls1_2"}
SIGNS_ONLY = "HIGH:!aNULL:!MD5:!kRSA:!DHE"
"""Cipher suites for an RSA key that signs; see docs/servers.md."""
PREFERS_RSA = (
    "AES128-GCM-SHA256:DHE-RSA-AES128-GCM-SHA256:ECDHE-RSA-AES128-GCM-SHA256:ECDHE-ECDSA-AES128-GCM-SHA256"
)
"""Cipher suites of a client that prefers what a signing key cannot do."""
CLIENTS = (KeyPlan("user", "p-256", ("tls-client",)), KeyPlan("user-rsa", "rsa-2048", ("tls-client",)))
"""Keys of a client program; it runs as www-data."""
START_S = 20.0


@dataclass(frozen=True)
class Root:
    """Where the programs are: this machine, or a root file system of another release."""

    path: Path = Path("/")

    def has(self, binary: str) -> bool:
        return any((self.path / place / binary).exists() for place in ("usr/sbin", "usr/bin"))

    def user(self, name: str) -> tuple[int, int]:
        """Numbers of a user and its group."""
        for line in (self.path / "etc/passwd").read_text().splitlines():
            fields = line.split(":")
            if fields[0] == name:
                return int(fields[2]), int(fields[3])
        raise AssertionError(f"{self.path} has no user {name}")

    def version(self, binary: str) -> str:
        """The package that has a program, and its version, as Debian writes it."""
        query: list[str | Path] = ["dpkg-query", "--admindir", self.path / "var/lib/dpkg"]
        owners = run([*query, "--search", f"*bin/{binary}"]).stdout.splitlines()
        owner = (owners or [""])[-1].partition(":")[0]  # of psql, the last one has the program of a release
        return run([*query, "--show", owner]).stdout.replace("\t", " ").strip()

    def command(self, site: Site, *command: str | Path, chroot: Path | None = None) -> list[str | Path]:
        """In namespaces of its own, which end with it; the agent's directory is shown in the program's chroot."""
        agent, inner = site.agent.directory, self.path / str(site.directory).lstrip("/")
        script = 'mount --bind "$1" "$2"; shift 2; '
        shown = agent
        if chroot is not None:
            shown = chroot / str(agent).lstrip("/")
            shown.mkdir(parents=True, exist_ok=True)
        enter = [
            "setpriv",
            "--pdeathsig",
            "KILL",
            "unshare",
            "--mount",
            "--pid",
            "--fork",
            "--kill-child",
            "--mount-proc",
            "--propagation",
            "private",
        ]
        if self.path == Path("/"):
            return [*enter, "sh", "-ec", script + 'exec "$@"', "sh", agent, shown, *command]
        inner.mkdir(parents=True, exist_ok=True)
        script += 'mount --rbind "$1" "$2"; mount --rbind /dev "$3/dev"; mount -t proc proc "$3/proc"; shift 2; exec chroot "$@"'
        return [*enter, "sh", "-ec", script, "sh", agent, shown, site.directory, inner, self.path, *command]


@dataclass
class Trial:
    """A program to be started with one key: its own directory, its port, and the files."""

    root: Root
    site: Site
    directory: Path
    chain: Path
    key: Path
    port: int
    stack: ExitStack
    chroot: Path | None = None
    """The program's chroot, in which the agent's directory is shown under its own name."""

    @property
    def host(self) -> str:
        """The name in the certificate."""
        return f"{self.chain.stem}.test"

    def write(self, name: str, text: str) -> Path:
        path = self.directory / name
        path.write_text(text)
        path.chmod(0o644)
        return path

    def own(self, path: Path, user: str) -> None:
        """Give a file to a user of the programs' system."""
        os.chown(path, *self.root.user(user))

    def run(self, *command: str | Path, text: str = "") -> str:
        """Run a program to its end; its output. AssertionError if it fails."""
        configuration = str(self.site.openssl)
        done = run(self.root.command(self.site, *command), text=text, OPENSSL_CONF=configuration)
        assert done.returncode == 0, f"{done.stderr}{self.output}"
        return done.stdout

    def start(self, *command: str | Path) -> None:
        """Start a server with the provider's configuration."""
        whole = self.root.command(self.site, *command, chroot=self.chroot)
        variables = {"OPENSSL_CONF": str(self.site.openssl)}
        process = Process(whole, self.directory / "output", variables=variables)
        self.stack.callback(process.stop)
        self.stack.callback(
            process.signal, signal.SIGKILL
        )  # unshare ignores others, and takes all processes with it
        end = time.monotonic() + START_S
        while not listens(self.port):
            process.check(str(command[0]))
            assert time.monotonic() < end, f"{command[0]} does not listen:\n{self.output}"
            time.sleep(0.05)

    @property
    def output(self) -> str:
        """The end of what it printed and logged."""
        logs = [self.directory / "output", *self.directory.glob("*.log")]
        return "\n".join(path.read_text(errors="replace")[-1_500:] for path in logs if path.exists())


@dataclass(frozen=True)
class Program:
    """A program, how it is set up for a trial, and how a client talks to it before TLS begins."""

    name: str
    binary: str
    package: str
    """What to install."""
    users: Sequence[str]
    """The users that use keys."""
    set_up: Callable[[Trial], None]
    starttls: str = ""
    keys: Sequence[str] = KEYS
    shake: Callable[[Trial, str], str] | None = None
    """A handshake under a version of TLS, if not by s_client; what to print."""
    refuses: str = ""
    """What it says if it cannot use key references at all."""
    more: Callable[[Trial], None] = field(default=lambda _trial: None)
    """Checks besides."""


def listens(port: int) -> bool:
    """Whether a socket listens, without a connection to it: vsftpd 3.0.5 sometimes ends when the first one is closed at once."""
    lines = Path("/proc/net/tcp").read_text().splitlines()
    return any(line.split()[1].endswith(f":{port:04X}") and line.split()[3] == "0A" for line in lines[1:])


# --- the programs ---


def lighttpd(trial: Trial) -> None:
    _start_lighttpd(trial, f'server.document-root = "{trial.directory}"')


def lighttpd_in_a_chroot(trial: Trial) -> None:
    trial.chroot = trial.directory / "root"
    trial.chroot.mkdir()
    _start_lighttpd(trial, f'server.chroot = "{trial.chroot}"\nserver.document-root = "/"')


def _start_lighttpd(trial: Trial, places: str) -> None:
    trial.directory.chmod(0o755)
    configuration = trial.write(
        "lighttpd.conf",
        f"""
server.modules = ("mod_openssl")
server.bind = "{HOST}"
server.port = {trial.port}
{places}
server.username = "www-data"
server.groupname = "www-data"
ssl.engine = "enable"
ssl.pemfile = "{trial.chain}"
ssl.privkey = "{trial.key}"
ssl.openssl.ssl-conf-cmd = ("MinProtocol" => "TLSv1.2", "CipherString" => "{SIGNS_ONLY}")
""",
    )
    trial.start("lighttpd", "-D", "-f", configuration)


def vsftpd(trial: Trial) -> None:
    """Version 3.0.5 sometimes drops a connection before TLS begins, also with a private key: then run it again."""
    trial.chroot = trial.directory / "empty"
    trial.chroot.mkdir(mode=0o755)
    (trial.directory / "ftp").mkdir()
    (trial.directory / "ftp" / "hello").write_text("hello\n")
    configuration = trial.write(
        "vsftpd.conf",
        f"""
listen=YES
listen_address={HOST}
listen_port={trial.port}
background=NO
anonymous_enable=YES
anon_root={trial.directory}/ftp
secure_chroot_dir={trial.chroot}
ssl_enable=YES
allow_anon_ssl=YES
rsa_cert_file={trial.chain}
rsa_private_key_file={trial.key}
ssl_ciphers={SIGNS_ONLY}
""",
    )
    trial.start("vsftpd", configuration)


def ftp_transfer(trial: Trial) -> None:
    """A file over a data connection of its own, with TLS."""
    command: list[str | Path] = [
        "curl",
        "--silent",
        "--show-error",
        "--ssl-reqd",
        "--cacert",
        trial.site.authority.file,
    ]
    where = ["--connect-to", f"::{HOST}:{trial.port}", f"ftp://{trial.host}:{trial.port}/hello"]
    done = run([*command, *where], timeout_s=20)
    assert done.stdout == "hello\n", f"no file came over a data connection: {done.stderr}{trial.output}"


def stunnel(trial: Trial) -> None:
    trial.chroot = trial.directory / "root"
    trial.chroot.mkdir()
    configuration = trial.write(
        "stunnel.conf",
        f"""
foreground = yes
pid =
chroot = {trial.chroot}
setuid = nobody
setgid = nogroup
[www]
accept = {HOST}:{trial.port}
connect = {HOST}:9
cert = {trial.chain}
key = {trial.key}
ciphers = {SIGNS_ONLY}
""",
    )
    trial.start("stunnel4", configuration)


def dovecot(trial: Trial) -> None:
    base = trial.directory / "run"
    trial.chroot = base / "login"
    base.mkdir(mode=0o755)
    new = f"""
dovecot_config_version = 2.4.0
dovecot_storage_version = 2.4.0
protocols {{
  imap = yes
}}
import_environment {{
  OPENSSL_CONF = {trial.site.openssl}
}}
ssl_server_cert_file = {trial.chain}
ssl_server_key_file = {trial.key}
"""
    old = f"""
protocols = imap
import_environment = $import_environment OPENSSL_CONF={trial.site.openssl}
ssl_cert = <{trial.chain}
ssl_key = <{trial.key}
"""
    own = old if " 1:2.3" in trial.root.version("dovecot") else new
    configuration = trial.write(
        "dovecot.conf",
        f"""{own}
base_dir = {base}
state_dir = {trial.directory}
log_path = {trial.directory}/dovecot.log
listen = {HOST}
ssl = required
ssl_cipher_list = {SIGNS_ONLY}
service imap-login {{
  inet_listener imap {{
    port = 0
  }}
  inet_listener imaps {{
    port = {trial.port}
  }}
}}
""",
    )
    trial.start("dovecot", "-F", "-c", configuration)


def exim(trial: Trial) -> None:
    configuration = trial.write(
        "exim.conf",
        f"""
spool_directory = {trial.directory}
log_file_path = {trial.directory}/%s.log
exim_user = mail
exim_group = mail
daemon_smtp_ports = {trial.port}
local_interfaces = {HOST}
tls_advertise_hosts = *
tls_certificate = {trial.chain}
tls_privatekey = {trial.key}
acl_smtp_rcpt = deny
begin acl
""",
    )
    trial.own(trial.directory, "mail")
    trial.start("exim4", "-C", configuration, "-bdf")


def postfix(trial: Trial) -> None:
    queue = trial.chroot = trial.directory / "spool"
    queue.mkdir()
    (trial.directory / "data").mkdir()
    trial.own(trial.directory / "data", "postfix")
    settings = {
        "queue_directory": queue, "data_directory": trial.directory / "data", "mynetworks": "127.0.0.0/8",
        "inet_interfaces": HOST, "inet_protocols": "ipv4", "myhostname": trial.host, "compatibility_level": "3.6",
        "maillog_file": trial.directory / "postfix.log", "maillog_file_prefixes": trial.directory,
        "import_environment": f"MAIL_CONFIG MAIL_LOGTAG LANG=C OPENSSL_CONF={trial.site.openssl}",
        "smtpd_tls_security_level": "may", "smtpd_tls_cert_file": trial.chain, "smtpd_tls_key_file": trial.key,
        "smtpd_tls_exclude_ciphers": "kRSA, DHE", "smtpd_tls_loglevel": "1", "alias_maps": "", "alias_database": "",
    }  # fmt: skip
    trial.write("main.cf", "".join(f"{name} = {value}\n" for name, value in settings.items()))
    given = (trial.root.path / "usr/share/postfix/master.cf.dist").read_text()
    service = re.sub(r"^smtp +inet", f"{HOST}:{trial.port} inet", given, count=1, flags=re.MULTILINE)
    trial.write("master.cf", service)
    trial.start("postfix", "-c", trial.directory, "start-fg")


def psql(trial: Trial) -> None:
    """A server that wants a client's certificate; its own key is in a file."""
    data = trial.directory / "data"
    server = next(each for each in trial.site.served if each.name == "pem.test")
    postgres = ["setpriv", "--reuid", "postgres", "--regid", "postgres", "--clear-groups"]
    found = max((trial.root.path / "usr/lib/postgresql").glob("*/bin"))
    binaries = "/" / found.relative_to(trial.root.path)
    trial.own(trial.directory, "postgres")
    trial.run(*postgres, binaries / "initdb", "-D", data, "-U", "postgres", "-A", "trust", "-N")
    (data / "pg_hba.conf").write_text("hostssl all all 127.0.0.1/32 cert\n")
    for name, source in (
        ("server.crt", server.chain),
        ("server.key", server.key),
        ("ca.crt", trial.site.authority.file),
    ):
        shutil.copyfile(source, data / name)
        trial.own(data / name, "postgres")
        (data / name).chmod(0o600)
    roles = f'CREATE ROLE "{trial.host}" LOGIN;\n'
    trial.run(*postgres, binaries / "postgres", "--single", "-D", data, "postgres", text=roles)
    settings = {
        "listen_addresses": HOST, "port": trial.port, "unix_socket_directories": "", "fsync": "off", "ssl": "on",
        "ssl_ca_file": "ca.crt",
    }  # fmt: skip
    options = [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
    trial.start(*postgres, binaries / "postgres", "-D", data, *options)


def query(trial: Trial, version: str) -> str:
    """Ask the server who we are, with the client's certificate, as another user."""
    parameters = {
        "host": "pem.test", "hostaddr": HOST, "port": trial.port, "user": trial.host, "dbname": "postgres",
        "sslmode": "verify-full", "sslrootcert": trial.site.authority.file, "sslcert": trial.chain, "sslkey": trial.key,
        "ssl_min_protocol_version": f"TLSv{version}", "ssl_max_protocol_version": f"TLSv{version}",
    }  # fmt: skip
    words = " ".join(f"{name}={value}" for name, value in parameters.items())
    as_user = ["setpriv", "--reuid", "www-data", "--regid", "www-data", "--clear-groups"]
    statement = (
        "SELECT version || ' ' || cipher || ' ' || client_dn FROM pg_stat_ssl WHERE pid = pg_backend_pid()"
    )
    answer = trial.run(*as_user, "psql", "-XAtc", statement, words)
    assert answer.startswith(f"TLSv{version} "), answer
    return answer.split()[1]


PROGRAMS = (
    Program("lighttpd", "lighttpd", "lighttpd lighttpd-mod-openssl", ["www-data"], lighttpd),
    Program("lighttpd-chroot", "lighttpd", "lighttpd lighttpd-mod-openssl", ["www-data"], lighttpd_in_a_chroot),
    Program("vsftpd", "vsftpd", "vsftpd", ["nobody"], vsftpd, "ftp", more=ftp_transfer),
    Program("stunnel", "stunnel4", "stunnel4", ["nobody"], stunnel),
    Program("dovecot", "dovecot", "dovecot-core dovecot-imapd", ["dovenull"], dovecot),
    Program("postfix", "postfix", "postfix", ["postfix"], postfix, "smtp"),
    Program(
        "psql", "psql", "postgresql-client postgresql", ["www-data"], psql, keys=[each.name for each in CLIENTS], shake=query
    ),
    Program("exim", "exim4", "exim4-daemon-light", ["mail"], exim, "smtp", refuses="Error while reading file"),
)  # fmt: skip


# --- trials ---


def s_client(trial: Trial, program: Program, version: str, *options: str) -> str:
    """A verified handshake; the name of its cipher suite. AssertionError if it fails."""
    command: list[str | Path] = [
        "openssl", "s_client", "-connect", f"{HOST}:{trial.port}", "-servername", trial.host, "-verify_hostname", trial.host,
        "-CAfile", trial.site.authority.file, "-verify_return_error", VERSIONS[version], *options,
        *(["-starttls", program.starttls] if program.starttls else []),
    ]  # fmt: skip
    done = run(command, timeout_s=20)
    session = re.search(r"^New, (\S+), Cipher is (\S+)$", done.stdout, re.MULTILINE)
    made = session is not None and session[1] == f"TLSv{version}" and "Verification: OK" in done.stdout
    assert session is not None and made, f"TLS {version}: {done.stderr[-600:]}\n{trial.output}"
    return session[2]


def recorded(trial: Trial, version: str, shake: Callable[[], str]) -> str:
    """Make a handshake, and wait until the audit log tells of it."""
    since, name = trial.site.daemon.log_size, trial.chain.stem
    shown = shake()
    try:
        use = trial.site.daemon.wait_for_use(since, lambda use: use.key_name == name)
    except AssertionError as error:
        raise AssertionError(f"TLS {version}: {error}\n{trial.output}") from None
    assert use.purpose.startswith(f"tls{version.replace('.', '')}-") and use.result == "performed", use
    return shown


def tried(root: Root, site: Site, program: Program, key: str) -> str:
    """Start it with a key and make the handshakes; what to print."""
    with ExitStack() as stack:
        directory = Path(tempfile.mkdtemp(prefix=f"hsmd-{program.name}-", dir=site.directory))
        directory.chmod(0o755)
        files = (site.agent.keys / f"{key}.pem", site.agent.keys / f"{key}.key")
        trial = Trial(root, site, directory, *files, free_port(HOST), stack)
        program.set_up(trial)
        if program.refuses:
            return refused(trial, program)
        cases = [(version, ()) for version in VERSIONS] + [("1.2", ("-cipher", PREFERS_RSA))] * (
            program.shake is None
        )
        shown = []
        for version, options in cases:

            def shake(version: str = version, options: Sequence[str] = options) -> str:
                return (
                    program.shake(trial, version)
                    if program.shake
                    else s_client(trial, program, version, *options)
                )

            shown.append(recorded(trial, version, shake))
        program.more(trial)
        return ", ".join(shown)


def refused(trial: Trial, program: Program) -> str:
    """A handshake fails, and the program says why, as documented."""
    with pytest.raises(AssertionError) as failed:
        s_client(trial, program, "1.3")
    assert program.refuses in str(failed.value), failed.value
    return f"cannot use key references, as documented: {program.refuses}"


def main() -> None:
    given = arguments()
    if given.list:
        print("\n".join(f"{each.name:18}{each.package}" for each in PROGRAMS))
        return
    if os.geteuid() != 0:
        sys.exit("this needs root: programs change their user and enter a chroot")
    chosen = [each for each in PROGRAMS if not given.only or each.name in given.only]
    root = Root(given.root.resolve())
    present = [each for each in chosen if root.has(each.binary)]
    for each in chosen:
        if each not in present:
            print(f"{each.name}: NOT TRIED, it is not installed: apt-get install {each.package}", flush=True)
    failed = 0
    site = Site()
    try:
        allow(site, root, [user for each in present for user in each.users])
        make_client_keys(site)
        for program in present:
            print(f"{program.name}: {root.version(program.binary)}", flush=True)
            for key in program.keys:
                try:
                    print(f"  {key}: {tried(root, site, program, key)}", flush=True)
                except AssertionError as error:
                    failed += 1
                    print(f"  {key}: FAILED: {error}", flush=True)
    finally:
        site.close()
    print(f"{len(present)} programs tried, {failed} failures", flush=True)
    sys.exit(1 if failed or not present else 0)


def allow(site: Site, root: Root, users: Sequence[str]) -> None:
    """Let these users use the agent, as `hsmd agent install openssl --user` does."""
    text = site.agent.config.read_text()
    numbers = sorted({0, *(root.user(name)[0] for name in users)})
    named = ", ".join(f'"{number}"' for number in numbers)
    site.agent.config.write_text(
        re.sub(r"^users = .*$", f"users = [{named}]", text, count=1, flags=re.MULTILINE)
    )
    site.agent.reload()


def make_client_keys(site: Site) -> None:
    """Keys for client programs, exported for their user as docs/servers.md says."""
    for plan in CLIENTS:
        site.make_key(plan)
        command: list[str | Path] = [
            "agent",
            "export",
            plan.name,
            "--config",
            site.agent.config,
            "--out",
            site.agent.keys,
        ]
        made = run(hsmd(*command, "--group", "www-data"))
        assert made.returncode == 0, made.stderr


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float)
    parser.add_argument("--seed", type=int)
    parser.add_argument("--only", action="append", default=[], metavar="NAME")
    parser.add_argument("--list", action="store_true")
    parser.add_argument("--root", type=Path, default=Path("/"), metavar="DIR")
    return parser.parse_args()


if __name__ == "__main__":
    main()
