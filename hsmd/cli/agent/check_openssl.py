"""Checks that OpenSSL loads hsmd's provider from a configuration file and uses its own for everything else."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

from hsmd.cli.agent.check_results import Finding, bad, good
from hsmd.deployment import trusted
from hsmd.errors import ConfigurationError
from hsmd.system.input_files import read_file

_SUBJECT = "OpenSSL"
TIMEOUT_S = 10.0
MAX_FILE_BYTES = 1 << 20
_MODULE = re.compile(r"^[ \t]*module[ \t]*=[ \t]*(/[^\s#]+)", re.MULTILINE)
_INCLUDE = re.compile(r"^[ \t]*\.include[ \t]*=?[ \t]*(/[^\s#]+)", re.MULTILINE)
_PROVIDER = re.compile(r"^  (\S+)$", re.MULTILINE)


def check_openssl(configuration: Path, reference: Path | None) -> list[Finding]:
    """Check the providers, an ephemeral P-256 key (fails if hsmd's provider comes first), and loading a key reference.

    Root loads nothing that another user could have changed, and that user's server would not either.
    """
    if not configuration.is_file():
        fix = "write it: hsmd agent install openssl"
        return [bad(_SUBJECT, f"{configuration} does not exist", fix)]
    if os.geteuid() == 0 and (untrusted := _untrusted(configuration)):
        return [untrusted]
    try:
        findings = [_providers(configuration), _ephemeral(configuration)]
        if reference is not None and reference.is_file():
            findings.append(_loads(configuration, reference))
    except FileNotFoundError:
        return [
            bad(
                _SUBJECT,
                "the command `openssl` was not found",
                "install the package openssl, which the check requires",
            )
        ]
    except subprocess.TimeoutExpired:
        return [
            bad(
                _SUBJECT,
                f"did not answer within {TIMEOUT_S:.0f} s",
                "run `openssl list -providers` with OPENSSL_CONF set to the file",
            )
        ]
    return findings


def provider_modules(configuration: Path) -> list[Path]:
    """The modules that an OpenSSL configuration names by absolute paths; empty if it cannot be read."""
    return _named(_MODULE, configuration)


def _named(pattern: re.Pattern[str], configuration: Path) -> list[Path]:
    try:
        text = read_file(configuration, MAX_FILE_BYTES).decode("utf-8", "replace")
    except OSError:
        return []
    return [Path(path) for path in pattern.findall(text)]


def _untrusted(configuration: Path) -> Finding | None:
    """What says which code is loaded, or is that code, and can be changed by another user than root; None if nothing can."""
    configurations = [configuration.absolute(), *_named(_INCLUDE, configuration)]
    modules = [module for file in configurations for module in provider_modules(file)]
    for file in (*configurations, *modules):
        try:
            if file.exists() and not _is_own(file):
                trusted.check_way(file)
                trusted.check(file, file.stat())
        except ConfigurationError as error:
            step = "change that, or run the check as the user of the server"
            return bad(_SUBJECT, f"root must not load {file}: {error.text}", step)
        except OSError as error:
            return bad(_SUBJECT, f"{file}: {error.strerror or error}", "correct the path")
    return None


def _is_own(module: Path) -> bool:
    """Whether it is the provider of this installation, whose code runs now."""
    from hsmd.provider import module_path

    try:
        return module == module_path()
    except FileNotFoundError:
        return False


def _providers(configuration: Path) -> Finding:
    fix = f"write {configuration} again (hsmd agent install openssl), and check that its `module` exists"
    done = _openssl(configuration, "list", "-providers")
    names = _PROVIDER.findall(done.stdout)
    if done.returncode != 0:
        return bad(_SUBJECT, f"does not start with {configuration}: {_last_line(done.stderr)}", fix)
    if "hsmd" not in names:
        return bad(
            _SUBJECT,
            f"{configuration} does not load the provider; loaded: {', '.join(names) or 'none'}",
            fix,
        )
    if "default" not in names:
        return bad(
            _SUBJECT, f"{configuration} does not activate the default provider, so nothing else works", fix
        )
    return good(_SUBJECT, f"{configuration} loads the providers {', '.join(names)}")


def _ephemeral(configuration: Path) -> Finding:
    done = _openssl(
        configuration,
        "genpkey",
        "-algorithm",
        "EC",
        "-pkeyopt",
        "ec_paramgen_curve:P-256",
        "-out",
        "/dev/null",
    )
    if done.returncode != 0:
        fix = f"in {configuration} list `default` before `hsmd`, as hsmd agent install openssl writes it"
        return bad(_SUBJECT, f"cannot generate ephemeral P-256 keys: {_last_line(done.stderr)}", fix)
    return good(_SUBJECT, "generates ephemeral P-256 keys with its own provider")


def _loads(configuration: Path, reference: Path) -> Finding:
    done = _openssl(configuration, "pkey", "-in", str(reference), "-pubout", "-out", "/dev/null")
    if done.returncode != 0:
        fix = (
            f"write the file again (hsmd agent export NAME), and {configuration} (hsmd agent install openssl)"
        )
        return bad(_SUBJECT, f"cannot load {reference}: {_last_line(done.stderr)}", fix)
    return good(_SUBJECT, f"loads {reference}")


def _openssl(configuration: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {"PATH": "/usr/local/bin:/usr/bin:/bin", "OPENSSL_CONF": str(configuration)}
    return subprocess.run(
        ["openssl", *arguments],
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
        timeout=TIMEOUT_S,
        check=False,
    )


def _last_line(text: str) -> str:
    lines = text.strip().splitlines()
    return lines[-1] if lines else "no reason given"
