"""Control of the fault-injecting PKCS#11 module: build it, put it before a token, set rules, read its record of calls.

    library = FaultModule.build(directory)                     # once per session: the fixture `fault_library`
    module = FaultModule(tmp_path, library, watch=audit_path)
    token = module.before(make_token(tmp_path / "softhsm"))    # a SoftHsmToken like any other
    rule = module.rule(Function.SIGN, Action.RETURN, CKR.DEVICE_ERROR, skip=10, count=1)

Rules take effect immediately in every process that has loaded the module, until they are cleared.
"""

from __future__ import annotations

import dataclasses
import mmap
import os
import struct
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import Any

from hsmd.pkcs11.softhsm import SoftHsmToken, softhsm_module

SOURCE = Path(__file__).with_name("fault_pkcs11.c")
WARNINGS = ("-std=c11", "-Wall", "-Wextra", "-Werror")


class Function(IntEnum):
    """Index in the function list of PKCS#11 2.40."""

    INITIALIZE = 0
    FINALIZE = 1
    GET_SLOT_LIST = 4
    GET_SLOT_INFO = 5
    GET_TOKEN_INFO = 6
    GET_MECHANISM_LIST = 7
    OPEN_SESSION = 12
    CLOSE_SESSION = 13
    CLOSE_ALL_SESSIONS = 14
    LOGIN = 18
    LOGOUT = 19
    CREATE_OBJECT = 20
    DESTROY_OBJECT = 22
    GET_ATTRIBUTE_VALUE = 24
    FIND_OBJECTS_INIT = 26
    FIND_OBJECTS = 27
    FIND_OBJECTS_FINAL = 28
    DECRYPT_INIT = 33
    DECRYPT = 34
    SIGN_INIT = 42
    SIGN = 43
    GENERATE_KEY = 58
    GENERATE_KEY_PAIR = 59
    WRAP_KEY = 60
    UNWRAP_KEY = 61
    GENERATE_RANDOM = 64


class Action(IntEnum):
    """What a rule does; the comment describes its argument."""

    RETURN = 1  # this CK_RV, without a call of the real module
    RETURN_AFTER = 2  # this CK_RV, although the real module has carried out the call
    SLEEP = 3  # milliseconds, then continue
    HANG = 4
    ABORT = 5
    CRASH = 6  # SIGSEGV
    FLIP = 7  # this bit (modulo the length) of the output of C_Sign or C_Decrypt; ANY_BIT: a random one
    TRUNCATE = 8  # to this number of bytes of that output


class About(IntEnum):
    """Which calls a rule applies to."""

    ANYTHING = 0
    MARKED_KEY = 1  # those with the key whose label `mark_key` was given
    MARKED_SLOT = 2  # those about the slot that `mark_slot` was given


class Garbled(IntEnum):
    """What the token makes of its texts."""

    NOT = 0
    PADDED_WITH_NUL = 1  # its label
    NOT_UTF8 = (
        2  # label, manufacturer and model begin with bytes that are not UTF-8 and with escape sequences
    )


class CKR(IntEnum):
    """Return values that tests use."""

    OK = 0x00
    HOST_MEMORY = 0x02
    GENERAL_ERROR = 0x05
    FUNCTION_FAILED = 0x06
    ARGUMENTS_BAD = 0x07
    DEVICE_ERROR = 0x30
    DEVICE_MEMORY = 0x31
    DEVICE_REMOVED = 0x32
    FUNCTION_NOT_SUPPORTED = 0x54
    KEY_HANDLE_INVALID = 0x60
    KEY_FUNCTION_NOT_PERMITTED = 0x68
    MECHANISM_INVALID = 0x70
    OBJECT_HANDLE_INVALID = 0x82
    OPERATION_ACTIVE = 0x90
    PIN_INCORRECT = 0xA0
    PIN_LOCKED = 0xA4
    SESSION_COUNT = 0xB1
    SESSION_HANDLE_INVALID = 0xB3
    TOKEN_NOT_PRESENT = 0xE0
    TOKEN_NOT_RECOGNIZED = 0xE1
    USER_NOT_LOGGED_IN = 0x101
    CRYPTOKI_NOT_INITIALIZED = 0x190


CKM_SHA256_HMAC = 0x251
UNLIMITED = ALWAYS = 0xFFFF_FFFF
ANY_BIT = NONE = 0xFFFF_FFFF_FFFF_FFFF
_MAGIC = 0x48534D46
_PAGE = struct.Struct("<IIQ6I8Q")
_PROCESSES, _HIDDEN, _RULES = 64, 8, 32
_RULE = struct.Struct("<8I4Q")
_RULES_AT = _PAGE.size + 8 * _PROCESSES
_HIDDEN_ATTRIBUTES_AT = _RULES_AT + _RULE.size * _RULES
_WRITE_PROTECTED_AT = _HIDDEN_ATTRIBUTES_AT + 8 * _HIDDEN
_GARBLED_AT = _WRITE_PROTECTED_AT + 4
_MARKED_SLOT_AT = _GARBLED_AT + 4
_MARKED_LABEL_AT, _LABEL = _MARKED_SLOT_AT + 8, 56
_SIZE = _MARKED_LABEL_AT + _LABEL
_LIFE_AT, _ABSENT_AT, _SESSION_CAP_AT, _PIN_TRIES_AT, _WRONG_TRIES_AT, _WRONG_TOTAL_AT = range(16, 40, 4)
_HIDDEN_AT = 40
_RECORD = struct.Struct("<IIQQQQQQQQIIII")


@dataclass(frozen=True, slots=True)
class Call:
    """One call that the module saw. Times are those of time.monotonic().

    `asked` and `answer` are input and output of C_Sign and C_Decrypt (after any damage); `argument` is their mechanism,
    `object` their key's handle. `watched_*` describe the watched file at the start of the call. `rule` is the number of
    the rule that acted, or None.
    """

    sequence: int
    pid: int
    function: Function
    rv: int
    began_s: float
    ended_s: float
    argument: int
    object: int
    watched_inode: int
    watched_size: int
    rule: int | None
    asked: bytes
    answer: bytes

    @property
    def returned_data(self) -> bool:
        """Whether a private key was used and the caller got the result."""
        return self.rv == CKR.OK and bool(self.answer)


@dataclass(frozen=True, slots=True)
class FaultyToken(SoftHsmToken):
    """A token that is used through the fault module."""

    module_environment: dict[str, str] = dataclasses.field(default_factory=dict)

    @property
    def environment(self) -> dict[str, str]:
        return {"SOFTHSM2_CONF": str(self.configuration), **self.module_environment}


@dataclass(frozen=True, slots=True)
class Rule:
    """An active rule."""

    module: FaultModule
    number: int

    @property
    def hits(self) -> int:
        """Number of calls on which it acted."""
        hits: int = _RULE.unpack_from(self.module.page, _RULES_AT + self.number * _RULE.size)[-1]
        return hits

    def clear(self) -> None:
        """Remove the rule; calls that already sleep or hang in it continue to."""
        self.module.put(_RULES_AT + self.number * _RULE.size, 0)


def compile_library(source: Path, library: Path, compiler: Sequence[str] = ("cc",)) -> Path:
    """Compile a shared library from one C file; warnings are errors."""
    command = [
        *compiler,
        *WARNINGS,
        "-O2",
        "-g",
        "-shared",
        "-fPIC",
        "-fvisibility=default",
        "-o",
        str(library),
        str(source),
        "-ldl",
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return library


class FaultModule:
    """One token's fault module: its control page and its record of calls, in a directory."""

    def __init__(
        self, directory: Path, library: Path, *, real_module: Path | None = None, watch: Path | None = None
    ) -> None:
        """`real_module` is the real module (default: SoftHSM); each use of a key records the size of the file `watch`."""
        directory.mkdir(parents=True, exist_ok=True)
        self.library = library
        self.real_module = real_module or softhsm_module()
        self._watch = watch
        self._control, self._calls = directory / "fault-control", directory / "fault-calls"
        self._calls.touch(mode=0o666)
        fresh = _PAGE.pack(_MAGIC, 0, 0, 1, 0, 0, 0, 0, 0, *[NONE] * _HIDDEN)
        self._control.write_bytes(fresh.ljust(_SIZE, b"\0"))
        for path in (self._control, self._calls):
            path.chmod(0o666)  # workers may run as another user
        with self._control.open("r+b") as file:
            self.page = mmap.mmap(file.fileno(), _SIZE)

    @staticmethod
    def build(directory: Path, compiler: Sequence[str] = ("cc",)) -> Path:
        """Compile the module; return the library."""
        return compile_library(SOURCE, directory / "fault_pkcs11.so", compiler)

    @property
    def environment(self) -> dict[str, str]:
        """Environment variables for processes that load the module."""
        values = {
            "HSMD_FAULT_MODULE": self.real_module,
            "HSMD_FAULT_CONTROL": self._control,
            "HSMD_FAULT_CALLS": self._calls,
        }
        if self._watch is not None:
            values["HSMD_FAULT_WATCH"] = self._watch
        return {name: str(path) for name, path in values.items()}

    def before(self, token: SoftHsmToken) -> FaultyToken:
        """The same token, used through this module."""
        return FaultyToken(token.label, self.library, token.pin_file, token.configuration, self.environment)

    # --- rules ---

    def rule(
        self,
        function: Function,
        action: Action,
        argument: int = 0,
        *,
        skip: int = 0,
        count: int = UNLIMITED,
        probability: float = 1.0,
        seed: int = 0,
        pid: int = 0,
        about: About = About.ANYTHING,
    ) -> Rule:
        """Apply `action` to calls of `function`: not to the first `skip`, at most `count` times, with `probability`.

        `pid` restricts it to one process, `about` to calls about the marked key or slot. The same `seed` and order of calls give the same faults.
        """
        number = next(number for number in range(_RULES) if not self._get(_RULES_AT + number * _RULE.size))
        at = _RULES_AT + number * _RULE.size
        chance = ALWAYS if probability >= 1 else int(probability * ALWAYS)
        values: tuple[Any, ...] = (0, function, action, pid, chance, skip, count, about, argument, seed, 0, 0)
        _RULE.pack_into(self.page, at, *values)
        self.put(at, 1)
        return Rule(self, number)

    def clear(self) -> None:
        """Remove all rules."""
        for number in range(_RULES):
            Rule(self, number).clear()

    # --- the token's state ---

    def token_away(self) -> None:
        """Remove the token: its slot is empty, and its sessions are permanently invalid."""
        self.put(_ABSENT_AT, 1)
        self.token_restarts()

    def token_back(self) -> None:
        """Insert the token again."""
        self.put(_ABSENT_AT, 0)

    def token_restarts(self) -> None:
        """Invalidate every open session."""
        self.put(_LIFE_AT, self._get(_LIFE_AT) + 1)

    def cap_sessions(self, most: int) -> None:
        """Limit the sessions of all processes together; 0 for no limit."""
        self.put(_SESSION_CAP_AT, most)

    def lock_pin_after(self, tries: int) -> None:
        """Lock the token after this many wrong PINs in a row, with its flags as a warning before; 0 for no limit."""
        self.put(_PIN_TRIES_AT, tries)

    def reset_pin_tries(self) -> None:
        """Unlock the PIN, as the security officer does."""
        self.put(_WRONG_TRIES_AT, 0)

    @property
    def wrong_logins(self) -> int:
        """Number of wrong PINs the token has ever received."""
        return self._get(_WRONG_TOTAL_AT)

    def mark_key(self, label: str) -> None:
        """The key that rules about the marked key apply to, by its CKA_LABEL."""
        self.page[_MARKED_LABEL_AT : _MARKED_LABEL_AT + _LABEL] = label.encode().ljust(_LABEL, b"\0")

    def mark_slot(self, slot: int) -> None:
        """The slot that rules about the marked slot apply to."""
        struct.pack_into("<Q", self.page, _MARKED_SLOT_AT, slot)

    def protect_from_writing(self, protected: bool = True) -> None:
        """Have the token refuse read-write sessions, and show the flag."""
        self.put(_WRITE_PROTECTED_AT, protected)

    def garble(self, how: Garbled) -> None:
        """Have the token show its texts in another form."""
        self.put(_GARBLED_AT, how)

    def hide_attributes(self, *attributes: int, object_class: int | None = None) -> None:
        """Have the token hide these attributes of all objects, or of those of one class."""
        assert len(attributes) <= _HIDDEN
        shown = [0, 0] * (_HIDDEN - len(attributes))
        pairs = [(0 if object_class is None else object_class + 1, attribute + 1) for attribute in attributes]
        values = [value for pair in pairs for value in pair] + shown
        struct.pack_into(f"<{2 * _HIDDEN}I", self.page, _HIDDEN_ATTRIBUTES_AT, *values)

    def hide_mechanisms(self, *mechanisms: int) -> None:
        """Have the token refuse these mechanisms and not list them."""
        assert len(mechanisms) <= _HIDDEN
        struct.pack_into(
            f"<{_HIDDEN}Q", self.page, _HIDDEN_AT, *mechanisms, *[NONE] * (_HIDDEN - len(mechanisms))
        )

    # --- the witness ---

    def calls(self, *functions: Function) -> list[Call]:
        """The recorded calls of these functions, or of all, in the order of the file."""
        data = self._calls.read_bytes()
        found, at = [], 0
        while at + _RECORD.size <= len(data):
            (
                length,
                pid,
                sequence,
                began,
                ended,
                rv,
                argument,
                handle,
                inode,
                size,
                function,
                rule,
                asked,
                answer,
            ) = _RECORD.unpack_from(data, at)
            if not functions or function in functions:
                begins = at + _RECORD.size
                found.append(
                    Call(
                        sequence,
                        pid,
                        Function(function),
                        rv,
                        began / 1e9,
                        ended / 1e9,
                        argument,
                        handle,
                        inode,
                        size,
                        rule - 1 if rule else None,
                        data[begins : begins + asked],
                        data[begins + asked : begins + asked + answer],
                    )
                )
            at += length
        return found

    def uses(self) -> list[Call]:
        """Every C_Sign and C_Decrypt with a private key that returned data; HMACs are of probes and envelopes."""
        used = self.calls(Function.SIGN, Function.DECRYPT)
        return [call for call in used if call.returned_data and call.argument != CKM_SHA256_HMAC]

    # --- the page ---

    def put(self, at: int, value: int) -> None:
        """Write one 32-bit word, in one store."""
        struct.pack_into("<I", self.page, at, value)

    def _get(self, at: int) -> int:
        value: int = struct.unpack_from("<I", self.page, at)[0]
        return value

    def close(self) -> None:
        """Unmap the page; it stays mapped in other processes."""
        self.page.close()


def process_sessions(module: FaultModule) -> int:
    """Number of open sessions of running processes, as counted by the module."""
    rows = struct.iter_unpack("<II", module.page[_PAGE.size : _RULES_AT])
    return sum(sessions for pid, sessions in rows if pid and os.path.exists(f"/proc/{pid}"))
