"""curl and `openssl s_client` as TLS clients."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from tests.support.front_end import HOST
from tests.support.processes import program, run

_SESSION = re.compile(r"^New, (\S+), Cipher is (\S+)$", re.MULTILINE)
VERSION_OPTIONS = {"1.2": "-tls1_2", "1.3": "-tls1_3"}


@dataclass(frozen=True, slots=True)
class Shown:
    """The output of s_client for a verified handshake; `dump` has every handshake message in hex."""

    version: str
    cipher: str
    dump: str


def s_client(
    port: int,
    host: str,
    authority: Path,
    version: str,
    *options: str | Path,
    host_address: str = HOST,
    **variables: str,
) -> Shown:
    """Do a handshake, verify the certificate with the authority, and get a page. AssertionError if anything fails."""
    status, text, errors = s_client_try(
        port, host, authority, version, *options, host_address=host_address, **variables
    )
    session = _SESSION.search(text)
    assert status == 0 and session is not None and "Verification: OK" in text, errors + text[-400:]
    assert f"\r\n\r\n{host}" in text or f"\n\n{host}" in text, errors + text[-400:]
    return Shown(session[1], session[2], text)


def s_client_try(
    port: int,
    host: str,
    authority: Path,
    version: str,
    *options: str | Path,
    host_address: str = HOST,
    **variables: str,
) -> tuple[int, str, str]:
    """As `s_client`, but return exit status, standard output and standard error, also on failure."""
    command: list[str | Path] = [
        program("openssl"), "s_client", "-connect", f"{host_address}:{port}", "-servername", host, "-verify_hostname", host,
        "-CAfile", authority, "-verify_return_error", "-msg", "-ign_eof", VERSION_OPTIONS[version], *options,
    ]  # fmt: skip
    done = run(command, text=f"GET / HTTP/1.0\r\nHost: {host}\r\n\r\n", timeout_s=20, **variables)
    return done.returncode, done.stdout, done.stderr


def curl(port: int, host: str, authority: Path, version: str, ciphers: str = "") -> str:
    """Get the page of a name over this TLS version. AssertionError if anything fails."""
    command: list[str | Path] = [
        program("curl"), "--silent", "--show-error", "--cacert", authority, "--resolve", f"{host}:{port}:{HOST}",
        "--tls-max", version, f"--tlsv{version}", *(["--ciphers", ciphers] if ciphers else []), f"https://{host}:{port}/",
    ]  # fmt: skip
    done = run(command, timeout_s=20)
    assert done.returncode == 0, done.stderr
    return done.stdout
