"""Temporary SoftHSM tokens for tests, `hsmd dev` and evaluation. The PINs are random and never in an argument list.

softhsm2-util accepts PINs only as arguments or from a terminal, so it is run on a pseudo-terminal. Do not keep valuable
private keys in such a token.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import secrets
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from hsmd.errors import ConfigurationError, NotInstalled

MODULES = (
    Path("/usr/lib/softhsm/libsofthsm2.so"),
    Path("/usr/lib/x86_64-linux-gnu/softhsm/libsofthsm2.so"),
    Path("/usr/lib/aarch64-linux-gnu/softhsm/libsofthsm2.so"),
    Path("/usr/lib64/pkcs11/libsofthsm2.so"),
    Path("/usr/local/lib/softhsm/libsofthsm2.so"),
)
CONFIGURATION = """\
directories.tokendir = {directory}
objectstore.backend = file
objectstore.umask = 0077
log.level = ERROR
slots.removable = false
slots.mechanisms = ALL
library.reset_on_fork = true
"""
SYSTEM_CONFIGURATION = Path("/etc/softhsm/softhsm2.conf")
"""Where Debian's SoftHSM looks if SOFTHSM2_CONF is not set."""
_TIMEOUT_S = 20.0


@dataclass(frozen=True, slots=True)
class SoftHsmToken:
    """A token in a directory: the values of a [[token]] section."""

    label: str
    module: Path
    pin_file: Path
    configuration: Path

    @property
    def environment(self) -> dict[str, str]:
        """What the module needs to find the token."""
        return {"SOFTHSM2_CONF": str(self.configuration)}


def make_token(directory: Path, label: str = "hsmd") -> SoftHsmToken:
    """Make a token in `directory`, which is created if it does not exist.

    Raises NotInstalled without SoftHSM, ConfigurationError if the directory holds a token already, or initialising fails.
    """
    token = SoftHsmToken(label, softhsm_module(), directory / "pin", directory / "softhsm2.conf")
    if token.configuration.exists():
        raise ConfigurationError(str(directory), ["already holds a token; choose another directory"])
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    (directory / "tokens").mkdir(mode=0o700)
    token.configuration.write_text(CONFIGURATION.format(directory=directory.resolve() / "tokens"))
    pin = secrets.token_hex(16)
    fd = os.open(token.pin_file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(fd, "w") as file:
        file.write(pin + "\n")
    _initialise(token, so_pin=secrets.token_hex(16), pin=pin)
    return token


def softhsm_module() -> Path:
    """The installed module. Raises NotInstalled if there is none."""
    for module in MODULES:
        if module.exists():
            return module
    raise NotInstalled("SoftHSM", "softhsm2")


def configuration_file(module: Path, environment: Mapping[str, str]) -> Path | None:
    """The configuration that SoftHSM reads with this environment; None for other modules. `module` may be a link to it."""
    if "softhsm" not in f"{module.name} {module.resolve().name}":
        return None
    return Path(environment.get("SOFTHSM2_CONF") or SYSTEM_CONFIGURATION)


def token_directory(module: Path, environment: Mapping[str, str]) -> Path | None:
    """The directory to which SoftHSM writes; None for other modules, or if its configuration does not tell."""
    file = configuration_file(module, environment)
    try:
        text = file.read_text("utf-8") if file is not None else ""
    except (OSError, UnicodeDecodeError):
        return None
    found = re.search(r"^\s*directories\.tokendir\s*=\s*(/\S*)", text, re.MULTILINE)
    return Path(found[1]) if found else None


def _initialise(token: SoftHsmToken, *, so_pin: str, pin: str) -> None:
    """Run softhsm2-util on a pseudo-terminal and enter both PINs, each twice."""
    keyboard, terminal = os.openpty()
    try:
        os.write(keyboard, f"{so_pin}\n{so_pin}\n{pin}\n{pin}\n".encode())
        done = subprocess.run(
            ["softhsm2-util", "--init-token", "--free", "--label", token.label],
            stdin=terminal,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            env={**os.environ, **token.environment},
            timeout=_TIMEOUT_S,
            check=False,
        )
    except FileNotFoundError:
        raise NotInstalled("softhsm2-util", "softhsm2") from None
    finally:
        os.close(keyboard)
        os.close(terminal)
    if done.returncode:
        raise ConfigurationError(
            "softhsm", [f"softhsm2-util failed: {done.stderr.decode(errors='replace').strip()}"]
        )


def section(token: SoftHsmToken) -> str:
    """The [[token]] section of hsmd.toml that uses the token."""
    return (
        "[[token]]\n"
        f"name = {json.dumps(token.label)}\n"
        f"module = {json.dumps(str(token.module))}\n"
        f"label = {json.dumps(token.label)}\n"
        f"pin_file = {json.dumps(str(token.pin_file.resolve()))}\n"
        f"environment = {{ SOFTHSM2_CONF = {json.dumps(str(token.configuration.resolve()))} }}\n"
    )


def main() -> int:
    """`python -m hsmd.pkcs11.softhsm DIRECTORY [LABEL]`: make a token, print its section."""
    parser = argparse.ArgumentParser(prog="make-token", description="Make a temporary SoftHSM token.")
    parser.add_argument("directory", type=Path)
    parser.add_argument("label", nargs="?", default="hsmd")
    arguments = parser.parse_args()
    try:
        token = make_token(arguments.directory, arguments.label)
    except ConfigurationError as error:
        print(error.text, file=sys.stderr)
        return 1
    print(section(token), end="")
    return 0


if __name__ == "__main__":
    sys.exit(main())
