"""Any other program: only the OpenSSL configuration, and the users that may use keys."""

from __future__ import annotations

from hsmd.cli.agent.servers import plan
from hsmd.cli.agent.servers.plan import ENVIRONMENT, Plan, Request


def prepare(request: Request, user: str) -> Plan:
    """The plan for a program that runs as `user`, which may be empty."""
    check = " ".join(["hsmd agent check", *request.keys[:1], *(["--user", user] if user else [])])
    return Plan(
        (plan.openssl_configuration(request), *(plan.allowed(request, user) if user else [])),
        (
            f"For a service:        set Environment={ENVIRONMENT} in its unit and restart it",
            f"Test it:              {ENVIRONMENT} openssl list -providers",
            f"Check the set-up:     {check}",
        ),
        {key: (request.exported / f"{key}.key", request.exported / f"{key}.pem") for key in request.keys},
    )
