"""The slots of a module, also if C_GetSlotInfo fails for some of them.

python-pkcs11 lists all slots or none. If one fails, C_GetSlotInfo is replaced in the module's function list for the time of
another listing by a function that describes failing slots as empty; their tokens then answer for themselves.
"""

from __future__ import annotations

import ctypes
import mmap
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pkcs11

_C_GET_SLOT_INFO = 5
"""Its place among the functions of CK_FUNCTION_LIST (PKCS#11 2.40, section 3.6), which begin behind the padded CK_VERSION."""
_SLOT_INFO_BYTES = 64 + 32 + 8 + 4
_FLAGS_AT, _TOKEN_PRESENT = 64 + 32, 1
_READ_WRITE = mmap.PROT_READ | mmap.PROT_WRITE
_GetSlotInfo = ctypes.CFUNCTYPE(ctypes.c_ulong, ctypes.c_ulong, ctypes.c_void_p)


def slots_of(library: Any) -> list[Any]:
    """The slots with a token. Raises PKCS11Error."""
    try:
        found: list[Any] = library.get_slots(token_present=True)
    except pkcs11.PKCS11Error:
        with _failing_slots_described(library.so):
            found = library.get_slots(token_present=True)
    return found


@contextmanager
def _failing_slots_described(path: str) -> Iterator[None]:
    functions = ctypes.c_void_p()
    ctypes.CDLL(path).C_GetFunctionList(ctypes.byref(functions))  # the module is loaded: this is the same one
    at = (functions.value or 0) + ctypes.sizeof(ctypes.c_void_p) * (1 + _C_GET_SLOT_INFO)
    entry = ctypes.c_void_p.from_address(at)
    original = entry.value or 0
    ask = _GetSlotInfo(original)

    def describe(slot: int, info: int) -> int:
        if ask(slot, info) != 0:
            ctypes.memset(info, 0, _SLOT_INFO_BYTES)
            ctypes.c_ulong.from_address(info + _FLAGS_AT).value = _TOKEN_PRESENT
        return 0

    tolerant = _GetSlotInfo(describe)
    page = at - at % mmap.PAGESIZE
    libc = ctypes.CDLL(None)
    if libc.mprotect(ctypes.c_void_p(page), ctypes.c_size_t(mmap.PAGESIZE), _READ_WRITE) != 0:
        yield
        return
    entry.value = ctypes.cast(tolerant, ctypes.c_void_p).value
    try:
        yield
    finally:
        entry.value = original
