"""What an exception of the binding means: for the job at hand, and for the worker it happened in.

The binding maps about 75 return values to classes and gives the rest as text with the number in hex. Whatever is not known to be
harmless recycles the worker. Nothing a caller can provoke by its bytes does.
"""

from __future__ import annotations

import re
from enum import Enum

import pkcs11


class Fault(Enum):
    """What to do after a call to the token failed."""

    KEY_GONE = "key-gone"
    """The handle is no longer valid: somebody destroyed the object, or the token came back empty-handed."""
    OPERATION = "operation"
    """This operation failed and the session goes on."""
    UNCLEAR = "unclear"
    """CKR_GENERAL_ERROR and its like: a probe of the session decides."""
    POISONED = "poisoned"
    """The session cannot be trusted any more."""


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


def classify(error: Exception) -> Fault:
    """What `error`, raised by a call into the binding, means."""
    if isinstance(error, _KEY_GONE):
        return Fault.KEY_GONE
    if isinstance(error, _OPERATION):
        return Fault.OPERATION
    if isinstance(error, _UNCLEAR):
        return Fault.UNCLEAR
    if return_value(error) in _UNMAPPED_OPERATION:
        return Fault.OPERATION
    return Fault.POISONED


def return_value(error: Exception) -> int | None:
    """The number of a return value that the binding has no class for."""
    found = _UNMAPPED.search(str(error)) if isinstance(error, pkcs11.PKCS11Error) else None
    return int(found[1], 16) if found else None


def name_of(error: Exception) -> str:
    """The error as the log writes it: class, and number where there is no class. Never data."""
    value = return_value(error)
    return type(error).__name__ if value is None else f"CKR 0x{value:x}"
