"""Classification of python-pkcs11's exceptions: what they mean for the operation and for the session.

python-pkcs11 maps about 75 return values to classes and gives the others as text with the number in hex. Every error that is
not known to be harmless makes the session unusable. Errors that a caller can cause by the data it sends are harmless.
"""

from __future__ import annotations

import re
from enum import Enum

import pkcs11


class Fault(Enum):
    """What to do after a call to the token failed."""

    KEY_GONE = "key-gone"
    """The handle is no longer valid: the object was destroyed, or the token was reset and has lost it."""
    OPERATION = "operation"
    """Only this operation failed; the session is usable."""
    UNCLEAR = "unclear"
    """CKR_GENERAL_ERROR and similar: probe the session to find out."""
    DOUBTFUL = "doubtful"
    """This key wants more than others, or the session is no longer logged in: a use of another key tells."""
    POISONED = "poisoned"
    """The session is no longer usable."""


_KEY_GONE = (pkcs11.KeyHandleInvalid, pkcs11.ObjectHandleInvalid)
_OPERATION = (
    pkcs11.ArgumentsBad,
    pkcs11.DataInvalid,
    pkcs11.DataLenRange,
    pkcs11.EncryptedDataInvalid,
    pkcs11.EncryptedDataLenRange,
    pkcs11.KeySizeRange,
    pkcs11.KeyTypeInconsistent,
    pkcs11.MechanismInvalid,
    pkcs11.MechanismParamInvalid,
)
_UNCLEAR = (pkcs11.GeneralError, pkcs11.FunctionFailed, pkcs11.FunctionRejected, pkcs11.FunctionCancelled)

_UNMAPPED = re.compile(r"Unmapped error code 0x([0-9a-f]+)")
_CKR_ACTION_PROHIBITED = 0x1B
_CKR_KEY_FUNCTION_NOT_PERMITTED = 0x68
_UNMAPPED_OPERATION = frozenset({_CKR_ACTION_PROHIBITED, _CKR_KEY_FUNCTION_NOT_PERMITTED})
_CKR_VENDOR_DEFINED = 0x8000_0000


def classify(error: Exception) -> Fault:
    """Classify an exception from a call to the token."""
    if isinstance(error, _KEY_GONE):
        return Fault.KEY_GONE
    if isinstance(error, _OPERATION):
        return Fault.OPERATION
    if isinstance(error, _UNCLEAR):
        return Fault.UNCLEAR
    value = return_value(error)
    if value in _UNMAPPED_OPERATION:
        return Fault.OPERATION
    if isinstance(error, pkcs11.UserNotLoggedIn) or (value is not None and value >= _CKR_VENDOR_DEFINED):
        return Fault.DOUBTFUL
    return Fault.POISONED


def return_value(error: Exception) -> int | None:
    """The return value, if python-pkcs11 has no class for it."""
    found = _UNMAPPED.search(str(error)) if isinstance(error, pkcs11.PKCS11Error) else None
    return int(found[1], 16) if found else None


def name_of(error: Exception) -> str:
    """The error's name for the log: its class, or its number if there is no class. Never contains data."""
    value = return_value(error)
    return type(error).__name__ if value is None else f"CKR 0x{value:x}"
