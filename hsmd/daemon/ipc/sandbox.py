"""What a token worker can no longer do once its token is open: a seccomp filter (seccomp(2)), and memory that is not swapped.

A vendor's module may need any ordinary system call, so the filter names what no module needs and what an attacker inside one
would want next: another program, other processes' memory, another network, the kernel's less guarded doors. It answers
EPERM, cannot be taken off again, and holds for every thread the module has.
"""

from __future__ import annotations

import ctypes
import errno
import os
import resource
import socket
from collections.abc import Callable
from typing import Any

from hsmd.daemon.ipc.worker_settings import WorkerSettings
from hsmd.errors import Unavailable

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
"""Their requests would reach the kernel past every filter."""
DENIED = (*OTHER_PROGRAMS, *OTHER_PROCESSES, *KEYRINGS, *KERNEL, *NAMESPACES, *UNFILTERED)

_CLONE_THREAD = 0x00010000
_ODD_FAMILIES = (socket.AF_PACKET, socket.AF_ALG, socket.AF_VSOCK)
"""What a module that talks over IP has no use for either."""
_MCL_CURRENT, _MCL_FUTURE, _MCL_ONFAULT = 1, 2, 4


def missing() -> str:
    """Why no filter can be installed here; empty if one can."""
    try:
        _library()
    except (ImportError, RuntimeError, OSError) as error:
        return f'{error}; install libseccomp (libseccomp2 on Debian), or set sandbox = "off"'
    return ""


def prepare(settings: WorkerSettings) -> Callable[[], None]:
    """Make the filter; what is returned installs it, for good, and needs no rights that the process does not have.

    Two steps, because looking for libseccomp starts a program, which must not happen once the module is initialised.
    With sandbox = "off" nothing is installed. Both steps raise Unavailable: a worker that should be enclosed does not
    run without.
    """
    if settings.sandbox == "off":
        return lambda: None
    if reason := missing():
        raise Unavailable(detail=f"no sandbox: {reason}")
    made = _refusing(lambda: _build(_library(), network=settings.network))
    return lambda: _refusing(made.load)


def _refusing(step: Callable[[], Any]) -> Any:
    try:
        return step()
    except OSError as error:
        raise Unavailable(
            detail=f'no sandbox: seccomp: {error.strerror}; to do without, set sandbox = "off"'
        ) from None


def lock_memory(settings: WorkerSettings) -> str:
    """Keep this process out of the swap, as `settings.lock_memory` says; what stands against it, empty for nothing.

    Raises Unavailable where it must be ("always") and cannot.
    """
    if settings.lock_memory == "never":
        return ""
    reason = _lock()
    if reason and settings.lock_memory == "always":
        raise Unavailable(detail=f"memory cannot be locked: {reason}")
    return reason


def _library() -> Any:
    import pyseccomp

    return pyseccomp


def _build(seccomp: Any, *, network: bool) -> Any:
    made = seccomp.SyscallFilter(seccomp.ALLOW)
    made.set_attr(seccomp.Attr.CTL_TSYNC, 1)
    made.set_attr(seccomp.Attr.CTL_NNP, 1)
    refuse = seccomp.ERRNO(errno.EPERM)
    for name in DENIED:
        if _exists(seccomp, name):
            made.add_rule(refuse, name)
    # Threads yes, processes no. clone3 hides its flags in memory, where a filter cannot look: libc then takes clone.
    made.add_rule(refuse, "clone", seccomp.Arg(0, seccomp.MASKED_EQ, _CLONE_THREAD, 0))
    made.add_rule(seccomp.ERRNO(errno.ENOSYS), "clone3")
    if network:
        for family in _ODD_FAMILIES:
            made.add_rule(refuse, "socket", seccomp.Arg(0, seccomp.EQ, family))
    else:
        made.add_rule(refuse, "socket", seccomp.Arg(0, seccomp.NE, socket.AF_UNIX))
    return made


def _exists(seccomp: Any, name: str) -> bool:
    """Whether this machine's architecture, and this release of libseccomp, know a system call of the name."""
    try:
        return bool(seccomp.resolve_syscall(seccomp.Arch.NATIVE, name) >= 0)
    except (OSError, ValueError):
        return False


def _lock() -> str:
    """Lock what is mapped and what will be, page by page as it is used (mlockall(2))."""
    soft, hard = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_MEMLOCK, (hard, hard))
    if hard != resource.RLIM_INFINITY and os.geteuid() != 0:
        # With a finite limit a later allocation could fail in the middle of a signature.
        return (
            f"the limit is {hard // 1024} KiB; start the daemon with LimitMEMLOCK=infinity, as its unit does"
        )
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mlockall(_MCL_CURRENT | _MCL_FUTURE | _MCL_ONFAULT) != 0:
        return os.strerror(ctypes.get_errno())
    return ""
