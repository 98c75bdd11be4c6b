"""Names of keys and clients as people type them: checked before anything is asked of a daemon."""

from __future__ import annotations

from typing import Annotated

import typer


def check(name: str) -> str:
    """`name`, if keys and clients can be called so. Raises BadParameter, which ends the command as wrong use."""
    import msgspec

    from hsmd.protocol.messages import Name

    try:
        return msgspec.convert(name, Name)
    except msgspec.ValidationError:
        rule = "1 to 64 of the characters a-z A-Z 0-9 . _ - and begins with a letter or digit"
        raise typer.BadParameter(f"{name!r} is no name; a name has {rule}") from None


KeyName = Annotated[
    str, typer.Argument(metavar="KEY", help="Name of the key.", show_default=False, callback=check)
]
NewName = Annotated[
    str, typer.Argument(metavar="NEW-NAME", help="Its name from now on.", show_default=False, callback=check)
]
ClientName = Annotated[
    str, typer.Argument(metavar="CLIENT", help="Name of the client.", show_default=False, callback=check)
]
