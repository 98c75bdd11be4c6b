"""Purposes: what may be done with a key, and the check that bytes are what their purpose says.

Pure functions: no I/O, no clock. The check runs in the token worker, beside the key; before that the front
process decides grants with the same names. What a caller needs is exported here; the other files are the
rules.
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
