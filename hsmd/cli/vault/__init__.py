"""`hsmd vault`: importing a file of the group registers its command, in the order of `hsmd vault --help`."""

# isort: off
from hsmd.cli.vault.options import app
from hsmd.cli.vault import keygen, register, confirm, keys
from hsmd.cli.vault import put, generate, get, run
from hsmd.cli.vault import list, show, limits, suspend, resume, revoke, destroy  # noqa: A004
from hsmd.cli.vault import rekey, wrapping_key
from hsmd.cli.vault import check, authorized_keys, allow, disallow, allowed, checks, events
# isort: on

__all__ = [
    "allow",
    "allowed",
    "app",
    "authorized_keys",
    "check",
    "checks",
    "confirm",
    "destroy",
    "disallow",
    "events",
    "generate",
    "get",
    "keygen",
    "keys",
    "limits",
    "list",
    "put",
    "register",
    "rekey",
    "resume",
    "revoke",
    "run",
    "show",
    "suspend",
    "wrapping_key",
]
