"""What the commands of `hsmd ca` share: the group, its common arguments, and an authority as text."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hsmd.cli.base import names, times
from hsmd.cli.base.commands import group
from hsmd.cli.base.files import PUBLIC
from hsmd.cli.base.output import fields, when
from hsmd.protocol.messages import AuthorityInfo
from hsmd.system import atomic_file

if TYPE_CHECKING:
    from rich.console import RenderableType

    from hsmd.cli.base.connection import Session

app = group(
    """Certificate authorities.

    An authority's key stays in a token and certifies only what was fixed when it was made: names, profiles, path length and the
    longest terms. The key that will replace it is made with it."""
)

AuthorityName = Annotated[
    str,
    typer.Argument(
        metavar="AUTHORITY", help="Name of the authority's key.", show_default=False, callback=names.check
    ),
]
Serial = Annotated[
    str, typer.Argument(metavar="SERIAL", help="Serial number, as `hsmd ca list AUTHORITY` shows it.")
]
Out = Annotated[
    Path | None, typer.Option("--out", "-o", metavar="FILE", help="File to write instead of printing.")
]
Term = Annotated[
    str,
    typer.Option(
        "--term", metavar="TIME", help="How long it is valid, for example 90d or 36h.", show_default=False
    ),
]
CommonName = Annotated[
    str, typer.Option("--common-name", help="Common name of the subject.", show_default=False)
]
Dns = Annotated[list[str], typer.Option("--dns", metavar="NAME", help="DNS name; may be repeated.")]
Ip = Annotated[list[str], typer.Option("--ip", metavar="ADDRESS", help="IP address; may be repeated.")]
Email = Annotated[
    list[str], typer.Option("--email", metavar="ADDRESS", help="E-mail address; may be repeated.")
]


def seconds(option: str, text: str) -> int:
    """The seconds of a term; 0 if none is given."""
    return times.span_s(option, text) if text else 0


def give(session: Session, document: object, pem: str, out: Path | None) -> None:
    """Print `pem`, or write it to a file; with --json print `document`."""
    if out is None:
        session.output.show(document, lambda: pem)
        return
    atomic_file.replace(out, pem, PUBLIC)
    session.output.show({"written": str(out)}, lambda: f"Wrote {out}.")


def describe(info: AuthorityInfo) -> RenderableType:
    """An authority as a table."""
    limits = info.limits
    return fields(
        [
            ("name", info.name),
            ("subject", info.subject),
            ("key", f"{info.key_type} in {info.token}, SHA-256 {info.digest}"),
            ("certificate until", when(info.certificate_not_after) or "(no certificate yet)"),
            ("profiles", ", ".join(limits.profiles) or "(other authorities only)"),
            ("DNS names", _names(limits.permitted_dns, limits.excluded_dns)),
            ("addresses", _names(limits.permitted_ip, limits.excluded_ip)),
            ("e-mail", _names(limits.permitted_email, limits.excluded_email)),
            ("common names", ", ".join(limits.common_names)),
            ("authorities below", str(limits.path_length)),
            ("longest terms", f"{span(limits.leaf_s)}; of authorities {span(limits.authority_s)}"),
            ("successor key", f"in {info.next_token}, SHA-256 {info.next_key}" if info.next_key else ""),
            ("revocation list", _list(info)),
        ]
    )


def span(length_s: int) -> str:
    """A length of time in days, hours if that is less than two days, or minutes."""
    if length_s < 3_600:
        return f"{length_s / 60:g} minutes"
    return f"{length_s // 86_400} days" if length_s >= 2 * 86_400 else f"{length_s / 3_600:g} hours"


def _names(permitted: list[str], excluded: list[str]) -> str:
    text = ", ".join(permitted) or "(none)"
    return f"{text}, but not {', '.join(excluded)}" if excluded else text


def _list(info: AuthorityInfo) -> str:
    if info.list_ends is None:
        return "(none yet)"
    at = f", at {', '.join(info.lists_at)}" if info.lists_at else ""
    return f"number {info.list_number}, until {when(info.list_ends)}{at}"
