"""The OpenSSL provider: where the built module is, and the OpenSSL configuration that loads it.

The provider itself is the C code in this directory. A TLS server with this configuration accepts a key reference file
wherever it accepts a private key, and has every signature made by the local agent. This module imports neither the agent
nor the daemon, so that configuration-management scripts can use it.
"""

from __future__ import annotations

import string
from pathlib import Path

__all__ = ["DEFAULT_SOCKET", "MODULE_NAME", "module_path", "openssl_configuration"]

DEFAULT_SOCKET = "/run/hsmd/agent.sock"
MODULE_NAME = "hsmd.so"

TIMEOUT_MS = range(10, 10_001)
SOCKET_BYTES_MAX = 107  # sun_path of unix(7) less its closing zero
# Characters that need no quoting in a value of config(5); "$" and "\" would be expanded, "#" begins a comment.
PLAIN_CHARACTERS = frozenset(string.ascii_letters + string.digits + "/._-+@:,=~%")


def module_path() -> Path:
    """Return the absolute path of the built provider module.

    Searches every directory of this package, because an editable install keeps sources and built files apart.
    Raises FileNotFoundError, naming the directories, if the module has not been built.
    """
    directories = [Path(entry).absolute() for entry in __path__]
    for directory in directories:
        module = directory / MODULE_NAME
        if module.is_file():
            return module
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
    """Return the text of an OpenSSL configuration file that loads the provider (see config(5)).

    `socket` is the absolute path of the agent's socket, `timeout_ms` the milliseconds a whole operation may take, `module`
    the provider module if it is not this package's own, `include` the system's configuration file, or None for none.
    A service gets the file by OPENSSL_CONF in its environment. Raises ValueError for a value that OpenSSL would misread or
    the provider would refuse, FileNotFoundError if the module has not been built.
    """
    if len(socket.encode()) > SOCKET_BYTES_MAX:
        raise ValueError(f"socket must be at most {SOCKET_BYTES_MAX} bytes long")
    if timeout_ms not in TIMEOUT_MS:
        raise ValueError(
            f"timeout_ms must be from {TIMEOUT_MS.start} to {TIMEOUT_MS.stop - 1}, not {timeout_ms}"
        )
    module_text = _plain_path("module", str(module_path() if module is None else module))
    lines = [] if include is None else [f".include {_plain_path('include', include)}"]
    # After .include the last section of the included file is open: without [default] the next line would belong to it.
    # The default provider must be active, and first: OpenSSL makes ephemeral keys with the first provider.
    lines += [
        "[default]",
        "openssl_conf = hsmd_init",
        "[hsmd_init]",
        "providers = hsmd_providers",
        "[hsmd_providers]",
        "default = hsmd_default",
        "hsmd = hsmd_self",
        "[hsmd_default]",
        "activate = 1",
        "[hsmd_self]",
        f"module = {module_text}",
        f"socket = {_plain_path('socket', socket)}",
        f"timeout-ms = {timeout_ms}",
        "activate = 1",
    ]
    return "\n".join(lines) + "\n"


def _plain_path(field: str, path: str) -> str:
    if not path.startswith("/"):
        raise ValueError(f"{field} must be an absolute path, not {path!r}")
    strange = sorted(set(path) - PLAIN_CHARACTERS)
    if strange:
        raise ValueError(f"{field} has characters that OpenSSL's configuration would misread: {strange}")
    return path
