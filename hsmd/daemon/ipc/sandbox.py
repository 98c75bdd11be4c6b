"""The seccomp filter of a token worker (seccomp(2)), installed once its token is open.

A vendor's module may need any ordinary system call, so the filter lists what no module needs and what an attacker inside one
would try next: other programs, other processes' memory, another network, seldom used kernel interfaces. Listed calls fail
with EPERM. The filter cannot be removed and applies to every thread of the module.
"""

from __future__ import annotations

import errno
import socket
from collections.abc import Callable
from typing import Any

from hsmd.daemon.ipc.worker_settings import WorkerSettings
from hsmd.errors import Unavailable
from hsmd.system.libraries import by_soname

OTHER_PROGRAMS = ("execve", "execveat", "fork", "vfork")
OTHER_PROCESSES = (
    "ptrace",
    "process_vm_readv",
    "process_vm_writev",
    "process_madvise",
    "kcmp",
    "pidfd_getfd",
)
KEYRINGS = ("keyctl", "add_key", "request_key")
KERNEL = (
    "bpf",
    "perf_event_open",
    "userfaultfd",
    "init_module",
    "finit_module",
    "delete_module",
    "kexec_load",
    "kexec_file_load",
    "reboot",
    "swapon",
    "swapoff",
    "acct",
    "iopl",
    "ioperm",
    "settimeofday",
    "clock_settime",
)
NAMESPACES = (
    "mount",
    "umount2",
    "pivot_root",
    "chroot",
    "setns",
    "unshare",
    "open_tree",
    "move_mount",
    "fsopen",
    "fsconfig",
    "fsmount",
    "fspick",
    "mount_setattr",
    "open_by_handle_at",
    "fanotify_init",
    "quotactl",
)
UNFILTERED = ("io_uring_setup", "io_uring_enter", "io_uring_register")
"""Their requests reach the kernel without passing a filter."""
DENIED = (*OTHER_PROGRAMS, *OTHER_PROCESSES, *KEYRINGS, *KERNEL, *NAMESPACES, *UNFILTERED)

_CLONE_THREAD = 0x00010000
_INT = 0xFFFF_FFFF
"""A filter compares registers of 64 bits, of which the kernel takes the lower half for an argument that is an int."""
_ODD_FAMILIES = (socket.AF_PACKET, socket.AF_ALG, socket.AF_VSOCK)
"""Address families that a module which communicates over IP does not need either."""


def missing() -> str:
    """Why no filter can be installed here; empty if one can."""
    try:
        _library()
    except (ImportError, RuntimeError, OSError) as error:
        return f'{error}; install libseccomp (libseccomp2 on Debian), or set sandbox = "off"'
    return ""


def prepare(settings: WorkerSettings) -> Callable[[], None]:
    """Build the filter. The returned function installs it permanently and needs no privilege.

    Two steps, so that a missing library is noticed before the module is initialised. With sandbox = "off" nothing is
    installed. Both steps raise Unavailable: a worker never runs without a sandbox that is required.
    """
    if settings.sandbox == "off":
        return lambda: None
    if reason := missing():
        raise Unavailable(detail=f"no sandbox: {reason}")
    rules = _or_unavailable(lambda: _build(_library(), network=settings.network))
    return lambda: _or_unavailable(rules.load)


def _or_unavailable(step: Callable[[], Any]) -> Any:
    try:
        return step()
    except OSError as error:
        raise Unavailable(
            detail=f'no sandbox: seccomp: {error.strerror}; to do without, set sandbox = "off"'
        ) from None


def _library() -> Any:
    with by_soname():
        import pyseccomp

    return pyseccomp


def _build(seccomp: Any, *, network: bool) -> Any:
    rules = seccomp.SyscallFilter(seccomp.ALLOW)
    rules.set_attr(seccomp.Attr.CTL_TSYNC, 1)
    rules.set_attr(seccomp.Attr.CTL_NNP, 1)
    refuse = seccomp.ERRNO(errno.EPERM)
    for name in DENIED:
        if _exists(seccomp, name):
            rules.add_rule(refuse, name)
    # Threads are allowed, processes are not. A filter cannot read the flags of clone3: if that fails, libc uses clone.
    rules.add_rule(refuse, "clone", seccomp.Arg(0, seccomp.MASKED_EQ, _CLONE_THREAD, 0))
    rules.add_rule(seccomp.ERRNO(errno.ENOSYS), "clone3")
    if network:
        for family in _ODD_FAMILIES:
            rules.add_rule(refuse, "socket", seccomp.Arg(0, seccomp.MASKED_EQ, _INT, family))
    else:
        rules.add_rule(refuse, "socket", seccomp.Arg(0, seccomp.NE, socket.AF_UNIX))
    return rules


def _exists(seccomp: Any, name: str) -> bool:
    """Whether this architecture and this release of libseccomp know a system call of this name."""
    try:
        return bool(seccomp.resolve_syscall(seccomp.Arch.NATIVE, name) >= 0)
    except (OSError, ValueError):
        return False
