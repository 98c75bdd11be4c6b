"""PostgreSQL: the environment of a cluster, its TLS settings, and files that it accepts.

PostgreSQL and libpq refuse a key file that others than its owner and, if that is root, its group may read. The server reads it
as its own user.
"""

from __future__ import annotations

import re
from pathlib import Path

from hsmd.cli.agent.servers import changes, plan
from hsmd.cli.agent.servers.changes import Change
from hsmd.cli.agent.servers.plan import ENVIRONMENT, OPENSSL_CONFIGURATION, Plan, Request
from hsmd.cli.base.errors import CommandError, Exit
from hsmd.system import host_users

_CLUSTERS = Path("/etc/postgresql")
_DIRECTORY = Path("/etc/hsmd/postgresql")
_OWN = re.compile(r"^\s*OPENSSL_CONF\s*=", re.MULTILINE)


def prepare(request: Request, user: str) -> Plan:
    """The plan for a cluster of PostgreSQL, which runs as `user`."""
    plan.needs_keys(request, "postgresql", one=True)
    [key] = request.keys
    cluster = _cluster(request)
    environment = changes.block(
        cluster / "environment", "postgresql", f"OPENSSL_CONF = '{OPENSSL_CONFIGURATION}'"
    )
    present = request.text(cluster / "environment")
    if present is None:
        raise CommandError(
            f"{cluster / 'environment'} does not exist",
            "name a cluster of Debian's packages: --cluster 15/main",
        )
    if _OWN.search(present) and environment.wanted(present) != present:
        raise CommandError(
            f"{cluster / 'environment'} sets OPENSSL_CONF itself",
            "remove that line, and give the file that it names with --site, which hsmd's configuration then extends",
        )
    unit = f"postgresql@{cluster.parent.name}-{cluster.name}.service"
    return Plan(
        (
            plan.openssl_configuration(request),
            environment,
            *_files(request, key, user),
            changes.whole(cluster / "conf.d" / "hsmd.conf", _settings(request, key), key),
            plan.after_agent(unit),
            plan.renewed(request, "postgresql", unit, _DIRECTORY),
            *plan.allowed(request, user),
        ),
        (
            f"Then:              systemctl daemon-reload && systemctl restart {unit.removesuffix('.service')}",
            "                   (a reload is not enough the first time, because the environment changes)",
            f"Later:             systemctl reload {unit.removesuffix('.service')}",
            f"libpq clients:     {ENVIRONMENT} psql ..., for those whose own key is a reference",
            f"Check the set-up:  hsmd agent check {key} --server postgresql",
        ),
        {key: (_DIRECTORY / f"{key}.key", _DIRECTORY / f"{key}.pem")},
        unit,
    )


def _cluster(request: Request) -> Path:
    """The directory of the cluster's configuration. Raises CommandError if it must be named."""
    if request.cluster:
        return _CLUSTERS / request.cluster
    found = sorted(request.below(_CLUSTERS).glob("*/*/postgresql.conf"))
    if len(found) != 1:
        names = ", ".join("/".join(path.parts[-3:-1]) for path in found)
        raise CommandError(
            f"there are several clusters: {names}" if found else f"there is no cluster in {_CLUSTERS}",
            "name one: --cluster 15/main" if found else "install the package postgresql first",
            Exit.USAGE,
        )
    return _CLUSTERS.joinpath(*found[0].parts[-3:-1])


def _files(request: Request, key: str, user: str) -> list[Change]:
    account = host_users.find(user)
    gid = 0 if account is None else account.gid
    found = []
    for suffix in (".pem", ".key"):
        text = request.text(request.exported / f"{key}{suffix}")
        if text is None:
            raise CommandError(
                f"{request.exported / f'{key}{suffix}'} does not exist",
                f"export the key, and its certificate, first: hsmd agent export {key}",
            )
        found.append(changes.copy(_DIRECTORY / f"{key}{suffix}", text, gid, key))
    return found


def _settings(request: Request, key: str) -> str:
    lines = [
        "# Written by hsmd agent install postgresql. The .key file is a reference, not a private key.",
        "ssl = on",
        f"ssl_cert_file = '{_DIRECTORY / f'{key}.pem'}'",
        f"ssl_key_file = '{_DIRECTORY / f'{key}.key'}'",
    ]
    if ciphers := request.ciphers(key):
        lines += [
            "# What the key can serve in TLS 1.2; other suites would fail.",
            f"ssl_ciphers = '{ciphers}'",
        ]
    return "\n".join(lines) + "\n"
