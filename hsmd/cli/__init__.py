"""The `hsmd` command. One module per command group, imported when its command is called, never before.

`hsmd --help` therefore costs nothing, and a front end without PKCS#11 and database packages has every command that makes
sense there. Exit codes are in `base/errors.py`.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence


def main() -> None:
    """Entry point of the `hsmd` script."""
    sys.exit(run(sys.argv[1:]))


def run(arguments: Sequence[str]) -> int:
    """Runs one command line; returns its exit code. Never raises and never prints a traceback unless asked to."""
    import typer

    from hsmd.cli.base.errors import Exit
    from hsmd.cli.base.output import complain
    from hsmd.cli.root import application

    try:
        code = application()(list(arguments), prog_name="hsmd", standalone_mode=False)
    except typer.TyperException as error:
        context = getattr(error, "ctx", None)
        path = context.command_path if context is not None else "hsmd"
        message = error.format_message().strip().rstrip(".")
        if message:  # a group without a command has printed its help already
            complain(f"hsmd: {message} - see: {path} --help")
        return Exit.USAGE
    except (typer.Abort, KeyboardInterrupt):
        complain("hsmd: interrupted")
        return Exit.INTERRUPTED
    except BrokenPipeError:
        sys.stdout = open("/dev/null", "w")  # noqa: SIM115  the reader is gone; the interpreter flushes once more at its end
        return Exit.FAILED
    return code if isinstance(code, int) else Exit.OK
