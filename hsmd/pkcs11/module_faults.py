"""Why a PKCS#11 module cannot be loaded or does not start, in words, with what an operator can do about it."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from hsmd.pkcs11 import softhsm
from hsmd.pkcs11.errors import name_of
from hsmd.system import host_users

_LOADING = "OS exception while loading "
"""How python-pkcs11 begins what dlopen(3) says; it has no class of its own for that."""
_NOT_OF_MODULES = frozenset(
    {"CREDENTIALS_DIRECTORY", "RUNTIME_DIRECTORY", "PATH", "PYTHONPATH", "LANG", "LD_LIBRARY_PATH", "HOME"}
)
"""Variables that name paths and do not configure a module."""


def is_about_loading(error: Exception) -> bool:
    """Whether the module could not be loaded: another try will not help."""
    return isinstance(error, OSError) or str(error).startswith(_LOADING)


def why_not_loaded(module: str, error: Exception) -> str:
    """Why the dynamic linker refused the module, and the next step."""
    path = Path(module)
    user = host_users.by_uid(os.geteuid()).name
    problem = f"the PKCS#11 module {module} "
    if not _exists(path):
        return f"{problem}does not exist; install it, or correct `module`"
    if not _may(path, os.R_OK):
        return f"{problem}cannot be read by the user {user}; change its permissions{_group_hint(path, user)}"
    reason = str(error).rpartition(f"{module}: ")[2] or name_of(error)
    return f"{problem}cannot be loaded: {reason}; check that it is a PKCS#11 module for this machine"


def why_not_started(module: str, error: Exception) -> str:
    """Why C_Initialize failed, as far as the files tell that the module was told to use, and the next step."""
    user = host_users.by_uid(os.geteuid()).name
    problem = f"the PKCS#11 module {module} does not start ({name_of(error)})"
    for what, path, access in _files_of(module):
        if not _exists(path):
            return f"{problem}: {what} {path} does not exist; create it, or correct the path"
        if not _may(path, access):
            return f"{problem}: the user {user} cannot use {what} {path}; change its permissions{_group_hint(path, user)}"
    return f"{problem}; check its own configuration, and that the user {user} can use the files and devices that it names"


def _files_of(module: str) -> Iterator[tuple[str, Path, int]]:
    """Files that the module uses: what each is, and the access that it needs."""
    for name, value in os.environ.items():
        if name not in _NOT_OF_MODULES and value.startswith("/"):
            yield f"{name}, its configuration", Path(value), os.R_OK
    configuration = softhsm.configuration_file(Path(module), os.environ)
    if configuration is not None:
        yield "its configuration", configuration, os.R_OK
        tokens = softhsm.token_directory(Path(module), os.environ)
        if tokens is not None:
            yield "its token directory", tokens, os.R_OK | os.W_OK | os.X_OK


def _exists(path: Path) -> bool:
    """Whether it exists; taken for granted where this user may not look."""
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError:
        return True
    return True


def _may(path: Path, access: int) -> bool:
    return os.access(path, access, effective_ids=True)


def _group_hint(path: Path, user: str) -> str:
    """How to give the user the group of the first directory or file on the way that only its group can use."""
    for step in (*reversed(path.parents), path):
        needed = os.X_OK if step != path else os.R_OK
        if _may(step, needed):
            continue
        with suppress(OSError):
            found = step.stat()
            for_group = stat.S_IXGRP if step != path else stat.S_IRGRP
            if found.st_gid != 0 and found.st_mode & for_group:
                group = host_users.group_name(found.st_gid)
                return f", or add it to the group: usermod -aG {group} {user}, and restart"
    return ""
