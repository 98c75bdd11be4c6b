"""`hsmd systemd`: the daemon as a service of systemd."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hsmd.cli.base import systemd
from hsmd.cli.base.commands import command, group
from hsmd.cli.base.errors import CommandError, Exit
from hsmd.cli.base.files import PUBLIC
from hsmd.cli.base.output import Output
from hsmd.system import atomic_file
from hsmd.system.directories import make_shared

if TYPE_CHECKING:
    from hsmd.daemon.config.settings import Config

app = group(
    """The daemon as a service of systemd.

    For the agent of a front end: hsmd agent install systemd."""
)


@dataclass(frozen=True, slots=True)
class UnitFile:
    """A unit and its text; `path` as the running system sees it."""

    path: Path
    text: str


@command(
    app,
    "install",
    example="hsmd systemd install --config /etc/hsmd/hsmd.toml\n"
    "hsmd systemd install --config /etc/hsmd/hsmd.toml --archive-to /srv/archive/hsm1\n"
    "hsmd systemd install --config /etc/hsmd/hsmd.toml --print",
)
def install(
    output: Output,
    config: Annotated[
        Path, typer.Option("--config", "-c", metavar="FILE", help="Configuration file of the daemon.")
    ] = Path("/etc/hsmd/hsmd.toml"),
    pin_file: Annotated[
        Path | None,
        typer.Option(
            "--pin-file",
            metavar="FILE",
            help="File with the PIN, if hsmd.toml names a credential of systemd (pin_credential). Default: that of the "
            "service that is replaced.",
        ),
    ] = None,
    module_writes: Annotated[
        list[Path],
        typer.Option(
            "--module-writes",
            metavar="DIR",
            help="Directory that the PKCS#11 module writes to; may be repeated. The one of SoftHSM is found.",
        ),
    ] = [],  # noqa: B006  read only
    archive_to: Annotated[
        Path | None,
        typer.Option(
            "--archive-to",
            metavar="DIR",
            help="Also a timer that copies sealed segments of the audit log to this directory every night.",
        ),
    ] = None,
    archive_remove: Annotated[
        bool,
        typer.Option(
            "--archive-remove",
            help="Remove segments from the log that were copied and that a checkpoint covers.",
        ),
    ] = False,
    only_print: Annotated[
        bool, typer.Option("--print", help="Print the files instead of writing them.")
    ] = False,
    root: Annotated[
        Path, typer.Option("--root", metavar="DIR", help="Write below this directory, for building images.")
    ] = Path("/"),
) -> None:
    """Write the hardened service of a daemon that `hsmd init` has set up.

    Run it again after an upgrade: the files are replaced. Make your own changes in a drop-in (systemctl edit hsmd).
    """
    from hsmd.daemon.config.reader import load

    if archive_remove and archive_to is None:
        raise CommandError(
            "--archive-remove needs --archive-to", "say where to copy segments first", Exit.USAGE
        )
    settings = load(config.absolute())
    files = [_daemon(settings, pin_file or _pin_file_of_before(settings, root), module_writes)]
    if archive_to is not None:
        files += _archive(settings, archive_to, remove=archive_remove)
    if not only_print:
        _write(files, root)
    document = {
        "files": [{"path": str(file.path), "content": file.text} for file in files],
        "written": not only_print,
    }
    units = "hsmd" if archive_to is None else f"hsmd {systemd.ARCHIVE_TIMER}"
    front = settings.users.front or "root"
    before = (
        "" if archive_to is None or archive_to.exists() else f"install -d -o {front} -m 700 {archive_to} && "
    )
    output.show(
        document,
        lambda: "\n".join(_lines(files, root, only_print)),
        hints=f"\nNext: {before}systemctl daemon-reload && systemctl enable --now {units}\n",
    )


@command(app, "remove", example="hsmd systemd remove")
def remove(
    output: Output,
    root: Annotated[Path, typer.Option("--root", metavar="DIR", help="Remove below this directory.")] = Path(
        "/"
    ),
) -> None:
    """Remove the services that `hsmd systemd install` wrote. Drop-ins, configuration, store and log stay."""
    removed = systemd.remove_units(systemd.DAEMON_UNITS, root)
    output.show(
        {"removed": [str(path) for path in removed]},
        lambda: "\n".join(f"Removed {path}" for path in removed) or "There were no units of hsmd.",
        hints="\nNext: systemctl daemon-reload; what still runs ends with: systemctl stop hsmd\n"
        if removed
        else "",
    )


def _daemon(config: Config, pin_file: Path | None, module_writes: list[Path]) -> UnitFile:
    credential = _credential(config, pin_file)
    text = systemd.daemon_unit(
        config.path,
        config.audit.directory.parent,
        pin_file if credential else None,
        credential=credential,
        written_by_module=[*_other_state(config), *module_writes, *_token_directories(config)],
    )
    return UnitFile(systemd.DIRECTORY / systemd.DAEMON_UNIT, text)


def _pin_file_of_before(config: Config, root: Path) -> Path | None:
    """The file of the credential with the PIN in the unit that is replaced, as `hsmd init --systemd` or this command wrote it."""
    loaded = systemd.loaded_credentials(root)
    return next(
        (loaded[name] for token in config.tokens if (name := token.settings.pin_credential) in loaded), None
    )


def _credential(config: Config, pin_file: Path | None) -> str:
    """The name of the credential with the PIN; empty if hsmd.toml names the file. Raises CommandError."""
    names = {token.settings.pin_credential for token in config.tokens} - {""}
    if not names and pin_file is not None:
        raise CommandError(
            f"{config.path} names the file with the PIN itself (pin_file)", "omit --pin-file", Exit.USAGE
        )
    if names and pin_file is None:
        raise CommandError(
            f"{config.path} names a credential of systemd (pin_credential), and not the file with the PIN",
            "name the file with --pin-file, or write pin_file = ... in place of pin_credential",
            Exit.USAGE,
        )
    if len(names) > 1:
        raise CommandError(
            f"{config.path} names {len(names)} credentials",
            "write pin_file in place of pin_credential, or add LoadCredential= in a drop-in",
            Exit.USAGE,
        )
    return next(iter(names), "")


def _other_state(config: Config) -> list[Path]:
    """The directory of the store, if it is not beside that of the audit log."""
    if not config.store_url.startswith("sqlite:///"):
        return []
    directory = Path(config.store_url.removeprefix("sqlite:///")).parent
    return [] if directory == config.audit.directory.parent else [directory]


def _token_directories(config: Config) -> list[Path]:
    from hsmd.pkcs11.softhsm import token_directory

    found = [token_directory(Path(token.settings.module), dict(token.environment)) for token in config.tokens]
    return [
        path for path in found if path is not None and not path.is_relative_to(config.audit.directory.parent)
    ]


def _archive(config: Config, to: Path, *, remove: bool) -> list[UnitFile]:
    units = systemd.archive_units(
        config.audit.directory, to.absolute(), config.users.front or "root", remove=remove
    )
    return [UnitFile(systemd.DIRECTORY / name, text) for name, text in units.items()]


def _write(files: list[UnitFile], root: Path) -> None:
    for file in files:
        target = _below(root, file)
        make_shared(target.parent)
        atomic_file.replace(target, file.text, PUBLIC)


def _below(root: Path, file: UnitFile) -> Path:
    return root / file.path.relative_to("/")


def _lines(files: list[UnitFile], root: Path, only_print: bool) -> list[str]:
    if not only_print:
        return [f"Wrote {_below(root, file)}" for file in files]
    return [line for file in files for line in (f"# ---- {file.path}", *file.text.splitlines(), "")]
