"""What the commands of `hsmd node` share: the group, the configuration file, and a pass as text."""

from __future__ import annotations

import os
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hsmd.cli.base.commands import group
from hsmd.cli.base.errors import CheckFailed, Exit
from hsmd.cli.base.invoking_user import invoking_user
from hsmd.cli.base.output import fields, table, when
from hsmd.errors import HsmdError

if TYPE_CHECKING:
    from hsmd.cli.base.output import TextOutput
    from hsmd.node.config import NodeConfig
    from hsmd.node.documents import Kept
    from hsmd.node.state import NodeState

SYSTEM_DIRECTORY = Path("/etc/hsmd")
SYSTEM_STATE, SYSTEM_FILES = Path("/var/lib/hsmd-node"), Path("/etc/hsmd-node")

app = group(
    """A node of a fleet: keeps certificate, trust anchors and revocation lists of a TLS server or client.

    It runs beside the program, renews its certificate from an authority of the daemon, writes the files, reloads the program,
    and tries handshakes with it. The private key is made here and stays in a file here.

    Set-up: 1. an operator runs `hsmd client enroll NAME --role node` and `hsmd ca allow`; 2. hsmd node init; 3. the lines that it
    prints go into the configuration of the program; 4. hsmd node run. To find problems: hsmd node check."""
)

Config = Annotated[
    Path | None,
    typer.Option(
        "--config",
        "-c",
        metavar="FILE",
        help="Configuration file. Default: /etc/hsmd/node.toml for root, otherwise ~/.config/hsmd/node.toml.",
    ),
]


def directory() -> Path:
    """The directory of the configuration: the system's for root, otherwise the user's own."""
    return SYSTEM_DIRECTORY if os.geteuid() == 0 else invoking_user().configuration


def protect() -> None:
    """No core dumps of this process, which has the private key, and no reading of its memory by others of the user."""
    from hsmd.system import process

    process.harden()


def file_of(given: Path | None) -> Path:
    """The configuration file."""
    return (given or directory() / "node.toml").absolute()


def load(given: Path | None) -> NodeConfig:
    """The configuration. Raises ConfigurationError."""
    from hsmd.node import config

    return config.load(file_of(given))


def files_of(config: NodeConfig, state: NodeState) -> tuple[Kept | None, NodeState]:
    """The files as they are, and the state with what is wrong with them."""
    import msgspec

    from hsmd.node import documents

    try:
        return documents.read(config.files), state
    except (OSError, HsmdError) as error:
        fault = documents.fault_of(error, config.files)
        return None, msgspec.structs.replace(
            state, files_error=f"{fault}; make the files anew: hsmd node renew"
        )


def document(config: NodeConfig, kept: Kept | None, state: NodeState) -> dict[str, object]:
    """A node for --json."""
    leaf = kept.leaf if kept is not None and kept.chain else None
    return {
        "client": config.client,
        "authority": config.authority,
        "program": config.program.name,
        "files": str(config.files / "current"),
        "level": level(leaf is not None, _ends(kept), state),
        "certificate": None
        if leaf is None or kept is None
        else {
            "serial": f"{leaf.serial_number:x}",
            "sha256": kept.leaf_digest,
            "not_before": leaf.not_valid_before_utc,
            "not_after": leaf.not_valid_after_utc,
            "revoked": kept.is_revoked,
        },
        "anchors": [] if kept is None else [each.subject.rfc4514_string() for each in kept.anchors],
        "problems": problems(state),
        "state": state,
    }


def text(config: NodeConfig, kept: Kept | None, state: NodeState) -> TextOutput:
    """A node for people: first whether it is well."""
    found = level(kept is not None and bool(kept.chain), _ends(kept), state)
    head = {"ok": "The node is well.", "degraded": "The program is served, but look at this:"}.get(
        found, "THE NODE DOES NOT DO ITS WORK:"
    )
    return (
        "\n".join([head, *(f"  {problem}" for problem in problems(state)), ""]),
        fields(
            [
                ("node", f"{config.client}, for {config.program.name}, from {config.authority}"),
                ("certificate", _certificate(config, kept)),
                ("anchors", "" if kept is None else "; ".join(each.subject.rfc4514_string() for each in kept.anchors)),
                ("revocation lists", "" if kept is None else _lists(kept)),
                ("files", str(config.files / "current")),
                ("last pass", _last_pass(state)),
                ("next pass", when(state.next_at)),
            ]
        ),
        *(
            ["", table(("HANDSHAKE", "RESULT"), [(each.probe, each.error or "ok") for each in state.probes])]
            if state.probes
            else []
        ),
    )  # fmt: skip


def level(has_certificate: bool, ends: datetime | None, state: NodeState) -> str:
    """`ok`; `degraded` while the program is served but something needs attention; otherwise `failing`."""
    if (
        not has_certificate
        or ends is None
        or ends <= datetime.now(UTC)
        or any(each.error for each in state.probes)
    ):
        return "failing"
    return "degraded" if problems(state) else "ok"


def problems(state: NodeState) -> list[str]:
    """What is wrong, that no pass is made any more first."""
    overdue = state.overdue(datetime.now(UTC))
    return [*([overdue] if overdue else []), *state.problems]


def end(config: NodeConfig, kept: Kept | None, state: NodeState) -> None:
    """Exit with 0, 5 (degraded) or 4 (failing)."""
    found = level(kept is not None and bool(kept.chain), _ends(kept), state)
    if found != "ok":
        raise CheckFailed(Exit.DEGRADED if found == "degraded" else Exit.PROBLEMS)


def _ends(kept: Kept | None) -> datetime | None:
    return kept.leaf.not_valid_after_utc if kept is not None and kept.chain else None


def _certificate(config: NodeConfig, kept: Kept | None) -> str:
    from hsmd.node.renewal import due

    if kept is None or not kept.chain:
        return "(none yet)"
    leaf = kept.leaf
    renewed = when(due(leaf.not_valid_before_utc, leaf.not_valid_after_utc, config.client))
    revoked = ", REVOKED" if kept.is_revoked else ""
    return f"until {when(leaf.not_valid_after_utc)}{revoked}, renewed from {renewed}, serial {leaf.serial_number:x}"


def _last_pass(state: NodeState) -> str:
    return f"{when(state.passed_at)}, with {state.daemon or 'no daemon'}" if state.passed_at else "(none yet)"


def _lists(kept: Kept) -> str:
    return "; ".join(
        f"{each.issuer.rfc4514_string()} until {when(each.next_update_utc)}, {len(each)} revoked"
        for each in kept.lists
    )
