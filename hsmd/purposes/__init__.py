"""Purposes: what a key may be used for, and the check that the bytes to sign or decrypt fit the purpose.

Pure functions: no I/O, no clock. The check runs in the token worker, next to the key; the front process decides grants with
the same purposes. The public functions are exported here; the other modules are the rules.
"""

from hsmd.purposes.allowed_names import AllowedNames
from hsmd.purposes.authority import AuthorityConstraints
from hsmd.purposes.authority_check import Beside
from hsmd.purposes.ceiling import check_ceiling, check_grantable, use_of, with_daemon_purposes
from hsmd.purposes.check import PurposeCheck
from hsmd.purposes.name_constraints import NameSet
from hsmd.purposes.names import (
    GRANTABLE,
    GROUPS,
    OF_KEY_OPERATIONS,
    TLS_SIGNING,
    WITH_ALLOWED_NAMES,
    KeyUse,
    Purpose,
    expand,
    is_decryption,
    is_unwrapping,
    labels,
    purpose_from_label,
    use_for,
)

__all__ = [
    "GRANTABLE",
    "GROUPS",
    "OF_KEY_OPERATIONS",
    "TLS_SIGNING",
    "WITH_ALLOWED_NAMES",
    "AllowedNames",
    "AuthorityConstraints",
    "Beside",
    "KeyUse",
    "NameSet",
    "Purpose",
    "PurposeCheck",
    "check_ceiling",
    "check_grantable",
    "expand",
    "is_decryption",
    "is_unwrapping",
    "labels",
    "purpose_from_label",
    "use_for",
    "use_of",
    "with_daemon_purposes",
]
