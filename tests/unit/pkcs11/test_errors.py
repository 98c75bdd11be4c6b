"""Classes and names of PKCS#11 errors."""

from __future__ import annotations

import pkcs11

from hsmd.pkcs11 import errors
from hsmd.pkcs11.errors import Fault


def test_errors_are_classified() -> None:
    assert errors.classify(pkcs11.KeyHandleInvalid()) is Fault.KEY_GONE
    assert errors.classify(pkcs11.DataLenRange()) is Fault.OPERATION
    assert errors.classify(pkcs11.GeneralError()) is Fault.UNCLEAR
    assert errors.classify(pkcs11.DeviceRemoved()) is Fault.POISONED
    assert errors.classify(pkcs11.PKCS11Error("Unmapped error code 0x68")) is Fault.OPERATION
    assert errors.classify(pkcs11.PKCS11Error("Unmapped error code 0x54321")) is Fault.POISONED
    assert errors.classify(pkcs11.UserNotLoggedIn()) is Fault.DOUBTFUL
    assert errors.classify(pkcs11.PKCS11Error("Unmapped error code 0x80000068")) is Fault.DOUBTFUL
    assert errors.classify(RuntimeError("Unmapped error code 0x68")) is Fault.POISONED
    assert errors.name_of(pkcs11.PKCS11Error("Unmapped error code 0x68")) == "CKR 0x68"
