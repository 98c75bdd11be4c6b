"""The programs that a node looks after: which files they load, how they are reloaded, and what a probe says to them.

`hsmd node init` prints settings for them, which name the files through `current`: a program loads all of one version.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

KEY = "key.pem"
CHAIN = "chain.pem"
COMBINED = "combined.pem"
"""Chain and key in one file, as HAProxy loads them."""
ANCHORS = "anchors.pem"
LISTS = "lists.pem"
UPDATE = "update.der"
"""What brought a new anchor, while the old one is held, too."""
SECRET = frozenset({KEY, COMBINED})


@dataclass(frozen=True, slots=True)
class Program:
    """A kind of program. `speaks` is what is said before and behind a handshake with it; `unit` is reloaded as it is by default.

    `settings` are lines for its configuration, of the directory of the files, with the revocation lists if there is one of each
    authority: servers refuse clients otherwise; `sessions` says how sessions of before the reload
    end (docs/node.md, "Sessions of the old certificate").
    """

    name: str
    server: bool
    settings: Callable[[Path, bool], str]
    sessions: str
    unit: str = ""
    speaks: str = "http"
    port: int = 443
    combined: bool = False


def _nginx(files: Path, lists: bool) -> str:
    return _lines(
        f"ssl_certificate         {files / CHAIN};",
        f"ssl_certificate_key     {files / KEY};",
        "# Only if all clients have certificates:",
        f"#ssl_client_certificate {files / ANCHORS};",
        lists and f"#ssl_crl                {files / LISTS};",
        "#ssl_verify_client      on;",
        "#ssl_verify_depth       3;",
    )


def _haproxy(files: Path, lists: bool) -> str:
    crl = f" crl-file {files / LISTS}" if lists else ""
    return _lines(
        f"bind :443 ssl crt {files / COMBINED}",
        "# Only if all clients have certificates, add to the line:",
        f"#   verify required ca-file {files / ANCHORS}{crl}",
    )


def _apache(files: Path, lists: bool) -> str:
    return _lines(
        f"SSLCertificateFile       {files / CHAIN}",
        f"SSLCertificateKeyFile    {files / KEY}",
        "# Only if all clients have certificates:",
        f"#SSLCACertificateFile    {files / ANCHORS}",
        lists and f"#SSLCARevocationFile     {files / LISTS}",
        lists and "#SSLCARevocationCheck    leaf",
        "#SSLVerifyClient         require",
        "#SSLVerifyDepth          3",
    )


def _postgresql(files: Path, lists: bool) -> str:
    return _lines(
        "ssl = on",
        f"ssl_cert_file = '{files / CHAIN}'",
        f"ssl_key_file  = '{files / KEY}'",
        "# For clients with certificates (and `clientcert=verify-full` in pg_hba.conf):",
        f"ssl_ca_file   = '{files / ANCHORS}'",
        lists and f"ssl_crl_file  = '{files / LISTS}'",
    )


def _curl(files: Path, lists: bool) -> str:
    return _lines(
        f'cacert = "{files / ANCHORS}"',
        lists and f'crlfile = "{files / LISTS}"',
        "# For servers that ask for a certificate:",
        f'cert = "{files / CHAIN}"',
        f'key = "{files / KEY}"',
    )


def _python(files: Path, lists: bool) -> str:
    return _lines(
        f'context = ssl.create_default_context(cafile="{files / ANCHORS}")   # a server: ssl.Purpose.CLIENT_AUTH before cafile',
        lists and f'context.load_verify_locations("{files / LISTS}")',
        lists and "context.verify_flags |= ssl.VERIFY_CRL_CHECK_LEAF",
        f'context.load_cert_chain("{files / CHAIN}", "{files / KEY}")',
    )


def _lines(*lines: str | bool) -> str:
    return "\n".join(line for line in lines if isinstance(line, str))


PROGRAMS = {
    program.name: program
    for program in (
        Program(
            "nginx",
            True,
            _nginx,
            "a reload ends them; with ssl_session_cache shared a restart, with ssl_session_ticket_key another key in the file",
            "nginx",
        ),
        Program(
            "haproxy",
            True,
            _haproxy,
            "a reload ends them, the run-time socket does not; with tls-ticket-keys other keys in the file",
            "haproxy",
            combined=True,
        ),
        Program(
            "apache",
            True,
            _apache,
            "a reload ends them; with SSLSessionTicketKeyFile another key in the file",
            "apache2",
        ),
        Program(
            "postgresql",
            True,
            _postgresql,
            "PostgreSQL gives out neither tickets nor session IDs",
            "postgresql",
            "postgresql",
            5432,
        ),
        Program(
            "curl", False, _curl, "curl keeps sessions for the time of one command, without --ssl-sessions"
        ),
        Program(
            "python",
            False,
            _python,
            "a new SSLContext ends them; loading files into the old one does not, and removes no anchor",
            speaks="tls",
        ),
    )
}
"""By name."""
