"""Errors about a missing program name the program and its package; errors about a file name the file."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from hsmd.cli.base import programs
from hsmd.cli.base.commands import command
from hsmd.cli.base.errors import CommandError
from hsmd.cli.base.output import Output
from tests.support.cli import Run


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Makes these the only programs of this host."""

    def only(*names: str) -> None:
        for name in names:
            (tmp_path / name).touch(0o755)
        monkeypatch.setattr(programs, "SYSTEM_PATH", str(tmp_path))

    monkeypatch.setenv("PATH", "")
    only()
    return only


@pytest.mark.parametrize(
    ("there", "missing"), [(("softhsm2-util",), "nginx"), (("softhsm2-util", "nginx"), "wrk")]
)
def test_bench_names_the_program_that_it_lacks_before_it_measures(
    run: Run, installed: Callable[..., None], there: tuple[str, ...], missing: str
) -> None:
    installed(*there)
    ran = run("bench", "--quick")
    error = f"hsmd: the program {missing} is not installed - install it: apt-get install {missing}\n"
    assert (ran.code, ran.err) == (1, error)


def test_a_program_with_a_name_of_its_own_is_looked_up_in_its_package(
    installed: Callable[..., None],
) -> None:
    with pytest.raises(CommandError, match=r"useradd is not installed - install it: apt-get install passwd$"):
        programs.find("useradd")
    installed("useradd")
    assert Path(programs.find("useradd")).name == "useradd"


def test_a_software_token_needs_softhsm(run: Run, home: Path, installed: Callable[..., None]) -> None:
    ran = run("init", "--softhsm")
    error = "hsmd: softhsm2-util is not installed - install it: apt-get install softhsm2\n"
    assert (ran.code, ran.err) == (2, error)
    assert not list(home.glob("*.toml"))


def _error(work: Callable[[], Any]) -> str:
    """What a command says in which `work` fails."""
    app = typer.Typer()

    @command(app, "fail", example="hsmd fail")
    def fail(output: Output) -> None:
        work()

    ran = CliRunner().invoke(app, [])
    assert ran.exit_code == 1
    return ran.stderr


def test_whatever_starts_a_program_names_it(tmp_path: Path) -> None:
    missing = _error(lambda: subprocess.run(["softhsm2-utility", "--help"], check=True))
    assert missing == (
        "hsmd: the program softhsm2-utility is not installed - install it: apt-get install softhsm2-utility\n"
    )
    unfit = tmp_path / "unfit"
    unfit.touch(0o644)
    text = _error(lambda: subprocess.run([str(unfit)], check=True))
    assert text.startswith(f"hsmd: the program {unfit} cannot be started: Permission denied - ")
    file = _error(lambda: (tmp_path / "nowhere").read_text())
    assert file.startswith(f"hsmd: {tmp_path}/nowhere: No such file or directory - check the path")
