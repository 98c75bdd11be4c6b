"""`hsmd ca`: importing a file of the group registers its command, in the order of `hsmd ca --help`."""

# isort: off
from hsmd.cli.ca.options import app
from hsmd.cli.ca import init, issue, renew, revoke, crl, link, allow, disallow, allowed, show, list as list_
# isort: on

__all__ = [
    "allow",
    "allowed",
    "app",
    "crl",
    "disallow",
    "init",
    "issue",
    "link",
    "list_",
    "renew",
    "revoke",
    "show",
]
