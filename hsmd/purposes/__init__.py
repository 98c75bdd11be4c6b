"""Purposes: what a key may be used for, and the check that the bytes to sign or decrypt fit the purpose.

Pure functions: no I/O, no clock. The check runs in the token worker, next to the key; the front process decides grants with
the same purposes. The public functions are exported here; the other modules are the rules.
"""

from hsmd.purposes.ceiling import check_ceiling, check_grantable, with_daemon_purposes
from hsmd.purposes.check import PurposeCheck
from hsmd.purposes.names import (
    GRANTABLE,
    GROUPS,
    TLS_SIGNING,
    Purpose,
    expand,
    is_decryption,
    labels,
    purpose_from_label,
)

__all__ = [
    "GRANTABLE",
    "GROUPS",
    "TLS_SIGNING",
    "Purpose",
    "PurposeCheck",
    "check_ceiling",
    "check_grantable",
    "expand",
    "is_decryption",
    "labels",
    "purpose_from_label",
    "with_daemon_purposes",
]
