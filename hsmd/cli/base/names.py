"""Names of keys and clients, and other texts on the command line, checked before a request is sent."""

from __future__ import annotations

from typing import Annotated

import typer


def check(name: str) -> str:
    """Return `name` if it is a valid name of a key or client. Raises BadParameter, a usage error."""
    import msgspec

    from hsmd.protocol.messages import Name

    try:
        return msgspec.convert(name, Name)
    except msgspec.ValidationError:
        rule = "1 to 64 characters a-z A-Z 0-9 . _ -, the first a letter or digit"
        raise typer.BadParameter(f"{name!r} is not a valid name; a name has {rule}") from None


def not_empty(context: typer.Context, parameter: typer.CallbackParam, value: str) -> str:
    """Refuse an empty option value. It comes from an unset variable of a script, and would be taken for no option at all."""
    source = context.get_parameter_source(parameter.name or "")
    if not value and source is not None and source.name == "COMMANDLINE":
        raise typer.BadParameter("the value is empty")
    return value


KeyName = Annotated[
    str, typer.Argument(metavar="KEY", help="Name of the key.", show_default=False, callback=check)
]
NewName = Annotated[
    str, typer.Argument(metavar="NEW-NAME", help="The new name.", show_default=False, callback=check)
]
ClientName = Annotated[
    str, typer.Argument(metavar="CLIENT", help="Name of the client.", show_default=False, callback=check)
]
