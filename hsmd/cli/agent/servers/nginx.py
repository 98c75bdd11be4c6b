"""nginx: the environment of its service, and a snippet with certificate and key for a server block."""

from __future__ import annotations

from pathlib import Path

from hsmd.cli.agent.servers import changes, plan
from hsmd.cli.agent.servers.plan import ENVIRONMENT, Plan, Request

UNIT = "nginx.service"
_SNIPPETS = Path("/etc/nginx/snippets")


def prepare(request: Request, user: str) -> Plan:
    """The plan for nginx, whose workers run as `user`."""
    plan.needs_keys(request, "nginx")
    snippets = [
        changes.whole(_SNIPPETS / f"hsmd-{key}.conf", _snippet(request, key), key) for key in request.keys
    ]
    return Plan(
        (
            plan.openssl_configuration(request),
            plan.unit_drop_in(UNIT),
            *snippets,
            plan.renewed(request, "nginx", UNIT, request.exported),
            *plan.allowed(request, user),
        ),
        (
            *(f"In the server block:  include snippets/hsmd-{key}.conf;" for key in request.keys),
            f"Then:                 systemctl daemon-reload && {ENVIRONMENT} nginx -t && systemctl restart nginx",
            "                      (a reload is not enough the first time, because the environment changes)",
            "Later:                systemctl reload nginx. Hooks that call `nginx -s reload` or `nginx -t` themselves need",
            f"                      {ENVIRONMENT}, too",
            f"Check the set-up:     hsmd agent check {' '.join(request.keys[:1])} --server nginx",
        ),
        {key: (request.exported / f"{key}.key", request.exported / f"{key}.pem") for key in request.keys},
        UNIT,
    )


def _snippet(request: Request, key: str) -> str:
    lines = [
        f"# Use in a server block: include snippets/hsmd-{key}.conf; The .key file is a reference, not a private key.",
        f"ssl_certificate {request.exported / f'{key}.pem'};",
        f"ssl_certificate_key {request.exported / f'{key}.key'};",
    ]
    if ciphers := request.ciphers(key):
        lines += ["# What the key can serve in TLS 1.2; other suites would fail.", f"ssl_ciphers {ciphers};"]
    if signatures := request.signatures(key):
        lines.append(f"ssl_conf_command SignatureAlgorithms {signatures};")
    return "\n".join(lines) + "\n"
