"""Apache: its environment, which service and `apachectl` share, and a file with certificate and key for a virtual host."""

from __future__ import annotations

import re
from pathlib import Path

from hsmd.cli.agent.servers import changes, plan
from hsmd.cli.agent.servers.plan import ENVIRONMENT, Plan, Request
from hsmd.cli.base.errors import CommandError

UNIT = "apache2.service"
ENVVARS = Path("/etc/apache2/envvars")
_CONFIGURATIONS = Path("/etc/apache2/conf-available")
_OWN = re.compile(r"^\s*(?:export\s+)?OPENSSL_CONF=", re.MULTILINE)


def prepare(request: Request, user: str) -> Plan:
    """The plan for Apache, whose workers run as `user`."""
    plan.needs_keys(request, "apache")
    envvars = request.text(ENVVARS)
    if envvars is None:
        raise CommandError(f"{ENVVARS} does not exist", "install the package apache2 first")
    environment = changes.block(ENVVARS, "apache", f"export {ENVIRONMENT}")
    if _OWN.search(envvars) and environment.wanted(envvars) != envvars:
        raise CommandError(
            f"{ENVVARS} sets OPENSSL_CONF itself",
            "remove that line, and give the file that it names with --site, which hsmd's configuration then extends",
        )
    return Plan(
        (
            plan.openssl_configuration(request),
            environment,
            plan.after_agent(UNIT),
            *(
                changes.whole(_CONFIGURATIONS / f"hsmd-{key}.conf", _configuration(request, key), key)
                for key in request.keys
            ),
            plan.renewed(request, "apache", UNIT, request.exported),
            *plan.allowed(request, user),
        ),
        (
            *(f"In the VirtualHost:  Include conf-available/hsmd-{key}.conf" for key in request.keys),
            "Then:                a2enmod -q ssl && apachectl configtest && systemctl restart apache2",
            "                     (a reload is not enough the first time, because the environment changes)",
            "Later:               systemctl reload apache2, or apachectl graceful",
            f"Check the set-up:    hsmd agent check {' '.join(request.keys[:1])} --server apache",
        ),
        {key: (request.exported / f"{key}.key", request.exported / f"{key}.pem") for key in request.keys},
        UNIT,
    )


def _configuration(request: Request, key: str) -> str:
    lines = [
        f"# Use in a VirtualHost: Include conf-available/hsmd-{key}.conf. The .key file is a reference, not a private key.",
        "SSLEngine on",
        f"SSLCertificateFile {request.exported / f'{key}.pem'}",
        f"SSLCertificateKeyFile {request.exported / f'{key}.key'}",
    ]
    if ciphers := request.ciphers(key):
        lines += [
            "# What the key can serve in TLS 1.2; other suites would fail.",
            f"SSLCipherSuite {ciphers}",
        ]
    if signatures := request.signatures(key):
        lines.append(f"SSLOpenSSLConfCmd SignatureAlgorithms {signatures}")
    return "\n".join(lines) + "\n"
