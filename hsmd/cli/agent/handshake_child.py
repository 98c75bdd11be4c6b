"""A program that does TLS handshakes with itself as the user of a server, in its chroot: a job is read, outcomes are printed.

It uses libssl itself, as servers do: it reads the configuration that OPENSSL_CONF names, and the errors of the provider, which
Python's `ssl` drops, can be shown. It needs only the standard library, and loads nothing once it is in the chroot. `Job` in
handshake.py describes what it reads.
"""

from __future__ import annotations

import ctypes
import json
import os
import sys
from typing import Any

_VERSIONS = {"TLS 1.2": 0x0303, "TLS 1.3": 0x0304}
_SET_MINIMUM, _SET_MAXIMUM = 123, 124
"""SSL_CTRL_SET_MIN_PROTO_VERSION and SSL_CTRL_SET_MAX_PROTO_VERSION of openssl/ssl.h."""
_PEM = 1
_WANT_READ = 2
_VERIFY_PEER, _FAIL_WITHOUT_PEER = 1, 2
_FLAG_STRING = 2
_ROUNDS = 20
_CLONE_NEWNS, _MS_BIND, _MS_REC, _MS_PRIVATE = 0x0002_0000, 0x1000, 0x4000, 1 << 18

_VERIFY = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_int, ctypes.c_void_p)
_accept_any = _VERIFY(lambda _ok, _context: 1)
"""The check is about keys; whether clients accept the chain is another one."""


class TlsError(Exception):
    """A call of OpenSSL failed; the texts of its errors, the first one that arose first."""


class Tls:
    """The functions of libssl and libcrypto that are needed, with their types (openssl/ssl.h)."""

    def __init__(self) -> None:
        self._ssl = ctypes.CDLL("libssl.so.3")
        self._crypto = ctypes.CDLL("libcrypto.so.3")
        pointer, text, integer, long = ctypes.c_void_p, ctypes.c_char_p, ctypes.c_int, ctypes.c_long
        self.server_method = self._of(self._ssl, "TLS_server_method", pointer)
        self.client_method = self._of(self._ssl, "TLS_client_method", pointer)
        self.context_new = self._of(self._ssl, "SSL_CTX_new", pointer, pointer)
        self.context_free = self._of(self._ssl, "SSL_CTX_free", None, pointer)
        self.control = self._of(self._ssl, "SSL_CTX_ctrl", long, pointer, integer, long, pointer)
        self.ciphers = self._of(self._ssl, "SSL_CTX_set_cipher_list", integer, pointer, text)
        self.chain = self._of(self._ssl, "SSL_CTX_use_certificate_chain_file", integer, pointer, text)
        self.key = self._of(self._ssl, "SSL_CTX_use_PrivateKey_file", integer, pointer, text, integer)
        self.verify = self._of(self._ssl, "SSL_CTX_set_verify", None, pointer, integer, _VERIFY)
        self.new = self._of(self._ssl, "SSL_new", pointer, pointer)
        self.free = self._of(self._ssl, "SSL_free", None, pointer)
        self.set_bio = self._of(self._ssl, "SSL_set_bio", None, pointer, pointer, pointer)
        self.accept_state = self._of(self._ssl, "SSL_set_accept_state", None, pointer)
        self.connect_state = self._of(self._ssl, "SSL_set_connect_state", None, pointer)
        self.do_handshake = self._of(self._ssl, "SSL_do_handshake", integer, pointer)
        self.error = self._of(self._ssl, "SSL_get_error", integer, pointer, integer)
        self.current_cipher = self._of(self._ssl, "SSL_get_current_cipher", pointer, pointer)
        self.cipher_name = self._of(self._ssl, "SSL_CIPHER_get_name", text, pointer)
        self.clear_errors = self._of(self._crypto, "ERR_clear_error", None)
        number = ctypes.POINTER(pointer)
        self._pair = self._of(
            self._crypto, "BIO_new_bio_pair", integer, number, ctypes.c_size_t, number, ctypes.c_size_t
        )
        self._get_error = self._of(
            self._crypto,
            "ERR_get_error_all",
            ctypes.c_ulong,
            ctypes.POINTER(text),
            ctypes.POINTER(integer),
            ctypes.POINTER(text),
            ctypes.POINTER(text),
            ctypes.POINTER(integer),
        )
        self._error_string = self._of(
            self._crypto, "ERR_error_string_n", None, ctypes.c_ulong, text, ctypes.c_size_t
        )

    @staticmethod
    def _of(library: ctypes.CDLL, name: str, result: Any, *arguments: Any) -> Any:
        function = getattr(library, name)
        function.restype, function.argtypes = result, list(arguments)
        return function

    def pair(self) -> tuple[Any, Any]:
        """Two connected BIOs (BIO_s_bio(3))."""
        one, other = ctypes.c_void_p(), ctypes.c_void_p()
        self.must(self._pair(ctypes.byref(one), 0, ctypes.byref(other), 0))
        return one, other

    def must(self, outcome: Any) -> Any:
        """`outcome`, unless it says that the call failed: then raise TlsError."""
        if not outcome or (isinstance(outcome, int) and outcome < 0):
            raise TlsError(self.errors())
        return outcome

    def errors(self) -> str:
        """Take all errors from the queue: the provider's own first, as it says the most."""
        found: list[str] = []
        data, flags, buffer = ctypes.c_char_p(), ctypes.c_int(), ctypes.create_string_buffer(256)
        nothing_text, nothing = ctypes.c_char_p(), ctypes.c_int()
        while code := self._get_error(
            ctypes.byref(nothing_text),
            ctypes.byref(nothing),
            ctypes.byref(nothing_text),
            ctypes.byref(data),
            ctypes.byref(flags),
        ):
            self._error_string(code, buffer, len(buffer))
            reason = buffer.value.decode("ascii", "replace").split(":", 2)[-1].replace("::", ": ").strip(":")
            said = (data.value or b"").decode("ascii", "replace") if flags.value & _FLAG_STRING else ""
            found.append(f"{reason}: {said}" if said else reason)
        own = [text for text in found if text.startswith("hsmd")]
        return "; ".join(own[:1] or found) or "no reason given"


def main() -> None:
    """Read a job from standard input, do it, and print the outcomes."""
    job = json.load(sys.stdin)
    tls = Tls()
    json.dumps(job)  # what is needed later is loaded now
    if job["loads_as_root"]:
        prepared = [_prepare(tls, case) for case in job["cases"]]
        _become(job)
    else:
        peers = [_peer(tls, case) for case in job["cases"]]
        _become(job)
        prepared = [_prepare(tls, case, peer) for case, peer in zip(job["cases"], peers, strict=True)]
    outcomes = [_shake(tls, each) if isinstance(each, tuple) else each for each in prepared]
    print(json.dumps(outcomes))


def _prepare(tls: Tls, case: dict[str, Any], peer: Any = None) -> Any:
    """The contexts of the end under test, with its key, and of its peer; or the outcome, if the files cannot be loaded."""
    try:
        server = case["role"] == "server"
        tested = _context(tls, case, server=server)
        tls.must(tls.chain(tested, os.fsencode(case["certificate"])))
        tls.must(tls.key(tested, os.fsencode(case["key"]), _PEM))
        peer = peer or _peer(tls, case)
    except TlsError as error:
        return {"stage": "load", "error": str(error)}
    return (tested, peer) if server else (peer, tested)


def _peer(tls: Tls, case: dict[str, Any]) -> Any:
    """The other end; if the key is a client's, it asks for the certificate."""
    server = case["role"] != "server"
    context = _context(tls, case, server=server)
    if server:
        tls.must(tls.chain(context, os.fsencode(case["peer"])))
        tls.must(tls.key(context, os.fsencode(case["peer"]), _PEM))
    tls.verify(context, _VERIFY_PEER | _FAIL_WITHOUT_PEER if server else 0, _accept_any)
    return context


def _context(tls: Tls, case: dict[str, Any], *, server: bool) -> Any:
    context = tls.must(tls.context_new(tls.server_method() if server else tls.client_method()))
    version = _VERSIONS[case["version"]]
    for command in (_SET_MINIMUM, _SET_MAXIMUM):
        tls.must(tls.control(context, command, version, None))
    if case["ciphers"]:
        tls.must(tls.ciphers(context, case["ciphers"].encode()))
    return context


def _shake(tls: Tls, contexts: tuple[Any, Any]) -> dict[str, str]:
    """Connect both ends and let them talk until both have finished, or one fails."""
    server, client = (tls.must(tls.new(context)) for context in contexts)
    try:
        there, back = tls.pair()
        tls.set_bio(server, there, there)
        tls.set_bio(client, back, back)
        tls.accept_state(server)
        tls.connect_state(client)
        unfinished = [client, server]
        for _ in range(_ROUNDS):
            unfinished = [end for end in unfinished if not _step(tls, end)]
            if not unfinished:
                cipher = tls.cipher_name(tls.current_cipher(client)).decode()
                return {"stage": "done", "error": "", "cipher": cipher}
        return {"stage": "handshake", "error": "it does not end"}
    except TlsError as error:
        return {"stage": "handshake", "error": str(error)}
    finally:
        tls.free(server)
        tls.free(client)


def _step(tls: Tls, end: Any) -> bool:
    """Whether this end has finished. Raises TlsError."""
    tls.clear_errors()  # SSL_get_error(3) takes any error in the queue for one of this call
    outcome = tls.do_handshake(end)
    if outcome == 1:
        return True
    if tls.error(end, outcome) != _WANT_READ:
        raise TlsError(tls.errors())
    return False


def _become(job: dict[str, Any]) -> None:
    """Enter the chroot, and become the user, as the server does."""
    if job["binds"]:
        _bind(job["binds"])
    if job["chroot"]:
        os.chroot(job["chroot"])
        os.chdir("/")
    if job["uid"] is not None:
        os.setgroups(job["groups"])
        os.setgid(job["gid"])
        os.setuid(job["uid"])


def _bind(binds: list[list[str]]) -> None:
    """Show directories elsewhere, as BindPaths= of the server's unit does, in a mount namespace of this process."""
    libc = ctypes.CDLL(None, use_errno=True)
    private = (b"none", b"/", None, _MS_REC | _MS_PRIVATE, None)
    if libc.unshare(_CLONE_NEWNS) != 0 or libc.mount(*private) != 0:
        raise OSError(ctypes.get_errno(), "cannot make a mount namespace")
    for source, target in binds:
        if not os.path.isdir(source):
            continue
        if libc.mount(os.fsencode(source), os.fsencode(target), None, _MS_BIND, None) != 0:
            raise OSError(ctypes.get_errno(), f"cannot bind {source} to {target}")


if __name__ == "__main__":
    main()
