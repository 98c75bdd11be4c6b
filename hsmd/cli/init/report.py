"""What `hsmd init` prints: what it has made, and the next steps."""

from __future__ import annotations

from pathlib import Path

from hsmd.cli.base import profile as profiles
from hsmd.cli.base.daemon_toml import Layout
from hsmd.cli.base.daemon_users import UserNames
from hsmd.cli.base.output import Output, fields
from hsmd.cli.base.ssh_keys import PublicLine
from hsmd.cli.init.first_operator import Operator


def start_step(layout: Layout, service: Path | None, names: UserNames) -> str:
    """The command that starts the daemon, as it was set up."""
    if service is not None:
        return "systemctl daemon-reload && systemctl enable --now hsmd"
    run = f"hsmd serve --config {layout.config}"
    if not names.front:
        return run
    install = f"hsmd systemd install --config {layout.config} && systemctl daemon-reload && systemctl enable --now hsmd"
    return f"{install}\n{' ' * 25}(without systemd, as root: {run})"


def show(
    output: Output, layout: Layout, host: PublicLine, operator: Operator | None, address: str, start: str
) -> None:
    """Show what was made; `operator` is None if the store is that of another daemon, `start` is the first step."""
    document = {
        "config": str(layout.config),
        "daemon": address,
        "host_key": host.line,
        "host_key_fingerprint": host.fingerprint,
        "operator": operator.name if operator else None,
        "operator_key_fingerprint": operator.key.fingerprint if operator else None,
        "profile": str(operator.profile) if operator and operator.profile else None,
    }
    made = fields(
        [
            ("configuration", str(layout.config)),
            ("host key", host.fingerprint),
            (
                "operator",
                f"{operator.name}, {operator.key.fingerprint}" if operator else "those of the store",
            ),
            ("profile", str(operator.profile) if operator and operator.profile else ""),
        ]
    )
    steps = (
        _next_steps(host, operator, address, start) if operator else _steps_of_another(host, address, start)
    )
    output.show(document, lambda: made, hints=steps)


def _next_steps(host: PublicLine, operator: Operator, address: str, start: str) -> str:
    options = ""
    where = ""
    if operator.profile is None:
        where = f" (on the computer of {operator.name})"
        options = f" --daemon {address} --user {operator.name} --identity KEY --host-key '{host.line}'"
    elif operator.profile != profiles.default_path().absolute():
        options = f" --profile {operator.profile}"
    return f"""
Next:
  1. Start the daemon:   {start}
  2. Check its status:   hsmd status{options}{where}
  3. Generate a key:     hsmd key generate www{options}
  4. Its certificate:    hsmd key csr www --dns www.example.org{options}   (or, to try it: hsmd cert self-signed)
  5. Add a front end:    hsmd client enroll web1 --grant www{options}
                         and there, with the line that this prints: hsmd agent init --enroll -
"""


def _steps_of_another(host: PublicLine, address: str, start: str) -> str:
    return f"""
Next:
  1. Start the daemon:   {start}
  2. On each front end:  hsmd agent daemon add {address} --host-key '{host.line}' && systemctl reload hsmd-agent
  3. As an operator:     hsmd status --daemon {address} --host-key '{host.line}'
"""
