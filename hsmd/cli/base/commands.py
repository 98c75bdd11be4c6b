"""What every command gets: common options, the example in its help, and the conversion of errors into exit codes.

A command is a function whose first parameter is an `Output` (it runs locally) or a `Session` (it connects to a daemon). The
decorator adds `--json` and `--debug`, and for a `Session` the options that name the daemon and the caller's identity.
"""

from __future__ import annotations

import inspect
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from hsmd.cli.base import programs
from hsmd.cli.base.errors import CheckFailed, CommandError, command_error, missing_package
from hsmd.cli.base.output import Output, report
from hsmd.errors import HsmdError

_OUTPUT = "Output"
_CONNECTION = "Connection"


def _option(*names: str, help: str, panel: str, metavar: str | None = None) -> Any:  # noqa: A002
    return typer.Option(*names, help=help, rich_help_panel=panel, metavar=metavar)


_OUTPUT_OPTIONS: dict[str, tuple[Any, object]] = {
    "json": (Annotated[bool, _option("--json", help="Print the result as JSON.", panel=_OUTPUT)], False),
    "debug": (
        Annotated[bool, _option("--debug", help="Print a traceback on errors.", panel=_OUTPUT)],
        False,
    ),
}
_CONNECTION_OPTIONS: dict[str, tuple[Any, object]] = {
    "profile": (
        Annotated[
            Path | None,
            _option(
                "--profile",
                help="Operator profile. Default: ~/.config/hsmd/operator.toml.",
                panel=_CONNECTION,
                metavar="FILE",
            ),
        ],
        None,
    ),
    "daemon": (
        Annotated[
            str | None,
            _option("--daemon", help="Address of the daemon.", panel=_CONNECTION, metavar="ADDRESS:PORT"),
        ],
        None,
    ),
    "user": (
        Annotated[
            str | None,
            _option("--user", help="Your client name at the daemon.", panel=_CONNECTION, metavar="NAME"),
        ],
        None,
    ),
    "identity": (
        Annotated[
            Path | None,
            _option("--identity", help="Your OpenSSH private key file.", panel=_CONNECTION, metavar="FILE"),
        ],
        None,
    ),
    "host_key": (
        Annotated[
            list[str] | None,
            _option(
                "--host-key",
                help="Host key of the daemon, an OpenSSH line; may be repeated.",
                panel=_CONNECTION,
                metavar="LINE",
            ),
        ],
        None,
    ),
    "timeout": (
        Annotated[
            float | None,
            typer.Option(
                "--timeout",
                min=0.1,
                max=60,
                help="Seconds to wait for the answer.",
                rich_help_panel=_CONNECTION,
            ),
        ],
        None,
    ),
}

Function = Callable[..., None]


def group(explanation: str) -> typer.Typer:
    """A command group; its help is `explanation`, whose first paragraph is its title."""
    return typer.Typer(no_args_is_help=True, add_completion=False, help=_reflowed(explanation))


def command(
    app: typer.Typer, name: str, *, example: str, old_name: str = ""
) -> Callable[[Function], Function]:
    """Register a function as command `name` of `app`; `example` (one command line per line) ends its help.

    The command also works under its `old_name`, which is not shown.
    """

    def register(function: Function) -> Function:
        lines = "\n\n".join(f"  $ {line}" for line in example.strip().splitlines())
        explanation, epilog = _reflowed(inspect.getdoc(function) or ""), f"Example:\n\n{lines}"
        run = _with_common_options(function)
        app.command(name, help=explanation, epilog=epilog)(run)
        if old_name:
            app.command(old_name, help=explanation, epilog=epilog, hidden=True)(run)
        return function

    return register


def _reflowed(text: str) -> str:
    """Each paragraph on one line, so that the terminal wraps it."""
    return "\n\n".join(" ".join(paragraph.split()) for paragraph in text.strip().split("\n\n"))


def _with_common_options(function: Function) -> Callable[..., None]:
    signature = inspect.signature(function, eval_str=True)
    (first, *own) = signature.parameters.values()
    connects = first.annotation is not Output

    def run(**values: Any) -> None:
        output = Output(values.pop("json"))
        debug = values.pop("debug")
        target = {option: values.pop(option) for option in _CONNECTION_OPTIONS} if connects else {}
        _guard(lambda: _call(function, output, target, values), output, debug)

    parameters = [
        *(parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY) for parameter in own),
        *_parameters(_CONNECTION_OPTIONS if connects else {}),
        *_parameters(_OUTPUT_OPTIONS),
    ]
    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    run.__name__ = function.__name__
    run.__wrapped__ = function  # type: ignore[attr-defined]
    return run


def _parameters(options: dict[str, tuple[Any, object]]) -> list[inspect.Parameter]:
    return [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)
        for name, (annotation, default) in options.items()
    ]


def _call(function: Function, output: Output, target: dict[str, Any], values: dict[str, Any]) -> None:
    if not target:
        function(output, **values)
        return
    from hsmd.cli.base.connection import Session

    with Session(output, **target) as session:
        function(session, **values)


def _guard(work: Callable[[], None], output: Output, debug: bool) -> None:
    """Run `work`; report an error as one line, with --json also as a document, and raise typer.Exit with the exit code."""
    try:
        work()
    except (typer.Exit, typer.Abort, BrokenPipeError):
        raise
    except KeyboardInterrupt:
        raise typer.Abort from None  # typer itself would end the command without a word
    except CheckFailed as failed:
        raise typer.Exit(int(failed.code)) from None
    except Exception as error:
        if debug:
            traceback.print_exception(error, file=sys.stderr)
        _end(_command_error(error), output)


def _command_error(error: Exception) -> CommandError:
    if isinstance(error, CommandError):
        return error
    if isinstance(error, HsmdError):
        return command_error(error)
    if isinstance(error, ModuleNotFoundError):
        return missing_package(error)
    if isinstance(error, OSError):
        if missing := programs.not_started(error):
            return missing
        where = f"{error.filename}: " if error.filename else ""
        return CommandError(
            f"{where}{error.strerror or error}", "check the path, its permissions and the free space"
        )
    return CommandError(
        f"internal error: {type(error).__name__}: {error}", "report it with the output of --debug"
    )


def _end(error: CommandError, output: Output) -> None:
    report(error, as_json=output.as_json)
    raise typer.Exit(int(error.code))
