"""The OpenSSL provider: where the built module is, and the OpenSSL configuration that loads it.

The provider itself is the C code in this directory. A TLS server with this configuration accepts a key reference file
wherever it accepts a private key, and has every signature made by the local agent. This module imports neither the agent
nor the daemon, so that configuration-management scripts can use it.
"""

from __future__ import annotations

import os
import string
from pathlib import Path

from hsmd.provider.site_configuration import SiteConfiguration, read

__all__ = ["DEFAULT_SOCKET", "MODULE_NAME", "module_path", "openssl_configuration"]

DEFAULT_SOCKET = "/run/hsmd/agent.sock"
MODULE_NAME = "hsmd.so"

TIMEOUT_MS = range(10, 10_001)
SOCKET_BYTES_MAX = 107  # sun_path of unix(7) less its closing zero
# Characters that need no quoting in a value of config(5); "$" and "\" would be expanded, "#" begins a comment.
PLAIN_CHARACTERS = frozenset(string.ascii_letters + string.digits + "/._-+@:,=~%")


def module_path() -> Path:
    """Return the absolute path of the built provider module.

    Searches every directory of this package, because an editable install keeps sources and built files apart. If the module
    there is a link, as in a Debian package, the file itself is named: its path does not change with the version of Python.
    Raises FileNotFoundError, naming the directories, if the module has not been built.
    """
    directories = [Path(entry).absolute() for entry in __path__]
    for directory in directories:
        module = directory / MODULE_NAME
        if module.is_file():
            return Path(os.path.normpath(directory / module.readlink())) if module.is_symlink() else module
    searched = ", ".join(str(directory) for directory in directories)
    raise FileNotFoundError(
        f"the OpenSSL provider {MODULE_NAME} is in none of: {searched}; install hsmd from a wheel, or build it with pip"
    )


def openssl_configuration(
    socket: str,
    timeout_ms: int = 500,
    module: Path | None = None,
    include: str | None = "/etc/ssl/openssl.cnf",
) -> str:
    """Return the text of an OpenSSL configuration file that loads the provider (see config(5)), and keeps what the site's sets.

    `socket` is the absolute path of the agent's socket, `timeout_ms` the milliseconds a whole operation may take, `module`
    the provider module if it is not this package's own, `include` the site's configuration file, or None for none; the text
    adds to the sections that this file has now.
    A service gets the file by OPENSSL_CONF in its environment. Raises ValueError for a value that OpenSSL would misread or
    the provider would refuse, FileNotFoundError if the module has not been built, OSError without OpenSSL 3.
    """
    if len(socket.encode()) > SOCKET_BYTES_MAX:
        raise ValueError(f"socket must be at most {SOCKET_BYTES_MAX} bytes long")
    if timeout_ms not in TIMEOUT_MS:
        raise ValueError(
            f"timeout_ms must be from {TIMEOUT_MS.start} to {TIMEOUT_MS.stop - 1}, not {timeout_ms}"
        )
    own = {
        "module": _plain_path("module", str(module_path() if module is None else module)),
        "socket": _plain_path("socket", socket),
        "timeout-ms": str(timeout_ms),
        "activate": "1",
    }
    site = SiteConfiguration()
    included = []
    if include is not None:
        included = [f".include {_plain_path('include', include)}"]
        site = read(include) if Path(include).exists() else site
    if "hsmd" in site.listed:
        raise ValueError(f"include: {include} loads the provider itself; remove that")
    sections = [*_providers(site), ("hsmd_self", own)]
    lines = (
        line
        for section, values in sections
        for line in (f"[{section}]", *(f"{name} = {value}" for name, value in values.items()))
    )
    return "\n".join([*included, *lines]) + "\n"


_Section = tuple[str, dict[str, str]]
"""Name of a section, and what is added to it: OpenSSL adds to a section that appears again."""


def _providers(site: SiteConfiguration) -> list[_Section]:
    """Add the provider to the site's list, or to one of our own.

    The default provider must be active, and first: OpenSSL makes ephemeral keys with the first provider. It is active by itself
    only while no other is, so it is activated unless the site has activated others instead, such as the FIPS provider.
    """
    sections: list[_Section] = []
    init, providers = site.init or "hsmd_init", site.providers or "hsmd_providers"
    if not site.init:
        sections.append(("default", {"openssl_conf": init}))
    if not site.providers:
        sections.append((init, {"providers": providers}))
    default = site.listed.get("default", "hsmd_default")
    if site.activated:
        return [*sections, (providers, {"hsmd": "hsmd_self"})]
    listed = {} if "default" in site.listed else {"default": default}
    return [*sections, (providers, {**listed, "hsmd": "hsmd_self"}), (default, {"activate": "1"})]


def _plain_path(field: str, path: str) -> str:
    if not path.startswith("/"):
        raise ValueError(f"{field} must be an absolute path, not {path!r}")
    strange = sorted(set(path) - PLAIN_CHARACTERS)
    if strange:
        raise ValueError(f"{field} has characters that OpenSSL's configuration would misread: {strange}")
    return path
