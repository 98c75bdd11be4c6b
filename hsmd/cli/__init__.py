"""The `hsmd` command. The module of a command group is imported only when one of its commands is called.

`hsmd --help` is therefore fast, and front ends without PKCS#11 and database packages can run every command that they need.
`hsmd X Y Z` is in the longest of X.py, X/Y.py and X/Y/Z.py that exists. Exit codes are in `base/errors.py`.
"""

from __future__ import annotations

import itertools
import sys
from collections.abc import Sequence


def main() -> None:
    """Entry point of the `hsmd` script."""
    code = run(sys.argv[1:])
    try:
        sys.stdout.flush()
    except BrokenPipeError:  # `hsmd status | head`: little output is written only here
        _discard_output()
    sys.exit(code)


def run(arguments: Sequence[str]) -> int:
    """Run one command line; return its exit code. Never raises, and prints a traceback only with --debug."""
    import typer

    from hsmd.cli.base.errors import CommandError, Exit
    from hsmd.cli.base.output import complain, report
    from hsmd.cli.root import application

    try:
        code = application()(list(arguments), prog_name="hsmd", standalone_mode=False)
    except typer.TyperException as error:
        context = getattr(error, "ctx", None)
        path = context.command_path if context is not None else "hsmd"
        message = _in_plain_words(error.format_message())
        if message:  # empty if a group without a command has printed its help
            report(CommandError(message, f"see: {path} --help", Exit.USAGE), as_json=_wants_json(arguments))
        return Exit.USAGE
    except (typer.Abort, KeyboardInterrupt):
        complain("hsmd: interrupted")
        return Exit.INTERRUPTED
    except BrokenPipeError:
        _discard_output()
        return Exit.FAILED
    return code if isinstance(code, int) else Exit.OK


def _wants_json(arguments: Sequence[str]) -> bool:
    """Whether --json is among the options. The command line may be one that no parser understands."""
    options = itertools.takewhile(lambda argument: argument != "--", arguments)
    return "--json" in options


def _discard_output() -> None:
    """The reader is gone, and the interpreter flushes at exit."""
    sys.stdout = open("/dev/null", "w")  # noqa: SIM115


def _in_plain_words(message: str) -> str:
    """An error about an argument or option without the phrases of the libraries that check them."""
    for phrase, words in (
        ("Value error, ", ""),
        (", unable to parse string as an integer", ""),
        (", unable to parse string as a number", ""),
        ("Input should be", "it must be"),
    ):
        message = message.replace(phrase, words)
    return message.strip().rstrip(".")
