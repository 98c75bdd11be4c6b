"""`hsmd node anchor`: taking the next trust anchor of a CA, and dropping the old one."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hsmd.anchors.certificates import MAX_BYTES
from hsmd.cli.base import input_files
from hsmd.cli.base.commands import command, group
from hsmd.cli.base.errors import CommandError, Exit
from hsmd.cli.base.output import Output
from hsmd.cli.node.options import Config, app, document, end, load, text

if TYPE_CHECKING:
    from hsmd.node.documents import Kept

anchor = group(
    """The trust anchors of a node, when the key of a CA is replaced (docs/rollover.md).

    In this order: `hsmd node anchor add` on every node; then each renews from the new authority; then `hsmd node anchor retire`
    on every node. `hsmd rollover plan` says which node may go on when."""
)
app.add_typer(anchor, name="anchor")
_DIGEST = re.compile(r"[0-9a-fA-F]{64}")


@command(anchor, "add", example="hsmd node anchor add root-2.update")
def add(
    output: Output,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The update that `hsmd ca link` has written.")],
    approved: Annotated[
        str,
        typer.Option(
            "--approved",
            metavar="SHA256",
            help="Of the new public key, as an operator has approved it; needed if the old anchor commits to no key.",
        ),
    ] = "",
    config: Config = None,
) -> None:
    """Trust the next key of a CA, too: its certificate is taken if a link by a key that the node trusts leads to it.

    The old anchor stays. The revocation list of the new authority comes from the daemon. The program is reloaded, and the
    handshakes are made.
    """
    from hsmd.node.generations import with_next_anchor

    if approved and not _DIGEST.fullmatch(approved):
        raise CommandError(
            "--approved: give a SHA-256, 64 hexadecimal digits",
            "see: hsmd node anchor add --help",
            Exit.USAGE,
        )
    update = input_files.content(file, MAX_BYTES)
    _change(
        output,
        config,
        lambda kept: with_next_anchor(kept, update, datetime.now(UTC), bytes.fromhex(approved)),
    )


@command(anchor, "retire", example="hsmd node anchor retire")
def retire(output: Output, config: Config = None) -> None:
    """Stop trusting the old key of a CA, and delete the link. The node's own certificate must be one of the new key.

    Do it when every counterpart of this node uses a certificate of the new key: others are refused from then on.
    """
    from hsmd.node.generations import without_old_anchor

    _change(output, config, without_old_anchor)


def _change(output: Output, config: Path | None, alter: Callable[[Kept], Kept]) -> None:
    from hsmd.node import documents, state
    from hsmd.node.daemons import Daemons
    from hsmd.node.passes import Node

    settings = load(config)
    with (
        output.working("changing the anchors"),
        state.locked(settings.state),
        Daemons(settings.daemons) as daemons,
    ):
        done = Node(settings).change(alter, daemons)
    kept = documents.read(settings.files)
    output.show(document(settings, kept, done), lambda: text(settings, kept, done))
    end(settings, kept, done)
