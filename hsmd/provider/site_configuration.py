"""The OpenSSL configuration of a site, as OpenSSL itself reads it: which sections it loads, and what is in them."""

from __future__ import annotations

import ctypes
from collections.abc import Mapping
from dataclasses import dataclass, field

_LIBRARY = "libcrypto.so.3"
_OFF = frozenset({"", "0", "n", "no", "off", "false"})
"""Values of `activate` that do not activate a provider, since OpenSSL 3.2 (config(5))."""


class _Value(ctypes.Structure):
    """CONF_VALUE of openssl/conf.h."""

    _fields_ = (("section", ctypes.c_char_p), ("name", ctypes.c_char_p), ("value", ctypes.c_char_p))


@dataclass(frozen=True, slots=True)
class SiteConfiguration:
    """Names of sections that a configuration file loads, empty for those that it has not, and the list of its providers."""

    init: str = ""
    """The section that `openssl_conf` names."""
    providers: str = ""
    listed: Mapping[str, str] = field(default_factory=dict)
    """The providers in their order, and the section of each."""
    activated: frozenset[str] = frozenset()
    """Those of them that are activated."""


def read(path: str) -> SiteConfiguration:
    """What OpenSSL finds in a configuration file. Raises ValueError if it cannot read it, OSError without OpenSSL 3."""
    conf = _Conf(path)
    try:
        return _read(conf)
    finally:
        conf.close()


def _read(conf: _Conf) -> SiteConfiguration:
    init = conf.section("default").get("openssl_conf", "")
    providers = conf.section(init).get("providers", "")
    listed = {_command(name): section for name, section in conf.section(providers).items()}
    activated = frozenset(
        name
        for name, section in listed.items()
        if conf.section(section).get("activate", "").lower() not in _OFF
    )
    return SiteConfiguration(init, providers, listed, activated)


def _command(name: str) -> str:
    """A name less the prefix that allows it to be repeated: `1.default` is `default`."""
    return name.rpartition(".")[2]


class _Conf:
    """A loaded CONF object; see NCONF_load in openssl/conf.h."""

    def __init__(self, path: str) -> None:
        self._library = _library()
        self._conf = self._library.NCONF_new(None)
        line = ctypes.c_long(0)
        if self._library.NCONF_load(self._conf, path.encode(), ctypes.byref(line)) != 1:
            self.close()
            where = f"line {line.value} of {path}" if line.value > 0 else path
            raise ValueError(f"OpenSSL cannot read {where}; correct it first")

    def section(self, name: str) -> dict[str, str]:
        """Names and values of a section in their order; empty if there is none."""
        values = self._library.NCONF_get_section(self._conf, name.encode()) if name else None
        found = {}
        for at in range(self._library.OPENSSL_sk_num(values)):
            entry = _Value.from_address(self._library.OPENSSL_sk_value(values, at))
            found[(entry.name or b"").decode()] = (entry.value or b"").decode()
        return found

    def close(self) -> None:
        self._library.NCONF_free(self._conf)
        self._library.ERR_clear_error()


def _library() -> ctypes.CDLL:
    library = ctypes.CDLL(_LIBRARY)
    pointer, text, integer = ctypes.c_void_p, ctypes.c_char_p, ctypes.c_int
    for name, result, arguments in (
        ("NCONF_new", pointer, [pointer]),
        ("NCONF_free", None, [pointer]),
        ("NCONF_load", integer, [pointer, text, ctypes.POINTER(ctypes.c_long)]),
        ("NCONF_get_section", pointer, [pointer, text]),
        ("OPENSSL_sk_num", integer, [pointer]),
        ("OPENSSL_sk_value", pointer, [pointer, integer]),
        ("ERR_clear_error", None, []),
    ):
        function = getattr(library, name)
        function.restype, function.argtypes = result, arguments
    return library
