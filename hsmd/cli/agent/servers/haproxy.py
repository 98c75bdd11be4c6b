"""HAProxy: files under the names that it looks for, and the agent's socket in its chroot.

HAProxy reads the key of FILE.pem from FILE.pem.key. It enters its chroot, and drops all groups but one, after it has loaded
the keys and before it uses them.
"""

from __future__ import annotations

import os
from pathlib import Path

from hsmd.cli.agent.servers import changes, haproxy_settings, plan
from hsmd.cli.agent.servers.changes import Change
from hsmd.cli.agent.servers.haproxy_settings import CONFIGURATION
from hsmd.cli.agent.servers.plan import ENVIRONMENT, Plan, Request

UNIT = "haproxy.service"
_DIRECTORY = Path("/etc/hsmd/haproxy")


def prepare(request: Request, user: str) -> Plan:
    """The plan for HAProxy, which becomes `user`."""
    plan.needs_keys(request, "haproxy")
    chroot = haproxy_settings.read(request.below(CONFIGURATION)).chroot
    service = () if chroot is None else (_bind(request.socket.parent, chroot),)
    test = f"{ENVIRONMENT} haproxy -c -f {CONFIGURATION}"
    return Plan(
        (
            plan.openssl_configuration(request),
            plan.unit_drop_in(UNIT, *service),
            *(change for key in request.keys for change in _links(request, key)),
            plan.renewed(request, "haproxy", UNIT, request.exported),
            *plan.allowed(request, user),
        ),
        (
            *(f"In haproxy.cfg:    {_bind_line(request, key)}" for key in request.keys),
            f"Then:              systemctl daemon-reload && {test} && systemctl restart haproxy",
            "                   (a reload is not enough the first time, because environment and mounts change)",
            "Later:             systemctl reload haproxy",
            f"Check the set-up:  hsmd agent check {' '.join(request.keys[:1])} --server haproxy",
        ),
        {key: (_DIRECTORY / f"{key}.pem.key", _DIRECTORY / f"{key}.pem") for key in request.keys},
        UNIT,
    )


def _bind(directory: Path, chroot: Path) -> str:
    """Show the directory of the socket in the chroot under its own name, as Debian's unit does with /dev/log.

    The directory, and not the socket, because the agent makes a new one when it starts. `-`: HAProxy starts without it.
    """
    return f"BindReadOnlyPaths=-{directory}:{chroot / directory.relative_to('/')}"


def _bind_line(request: Request, key: str) -> str:
    ciphers = request.ciphers(key)
    return f"bind :443 ssl crt {_DIRECTORY / f'{key}.pem'}" + (f" ciphers {ciphers}" if ciphers else "")


def _links(request: Request, key: str) -> list[Change]:
    exported = Path(os.path.relpath(request.exported, _DIRECTORY))
    return [
        changes.link(_DIRECTORY / f"{key}.pem", str(exported / f"{key}.pem"), key),
        changes.link(_DIRECTORY / f"{key}.pem.key", str(exported / f"{key}.key"), key),
    ]
