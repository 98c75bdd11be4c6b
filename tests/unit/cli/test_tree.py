"""Every command has help with an example, and --json."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import hsmd
from hsmd.cli.root import ENTRIES
from tests.support.cli import COMMANDS, Run


def test_the_tree_has_the_documented_commands() -> None:
    lines = {" ".join(path) for path in COMMANDS}
    assert lines >= {
        "init", "serve", "dev", "status",
        "key generate", "key adopt", "key import", "key list", "key show", "key csr", "key destroy",
        "cert import", "cert self-signed", "cert export",
        "client add", "client list", "client remove", "client trust-user-ca",
        "grant add", "grant list", "grant remove", "grant explain",
        "audit show", "audit verify",
        "agent init", "agent run", "agent export", "agent install", "agent check",
    }  # fmt: skip


@pytest.mark.parametrize("path", COMMANDS, ids=" ".join)
def test_help_has_a_sentence_and_an_example(run: Run, path: tuple[str, ...]) -> None:
    ran = run(*path, "--help")
    assert ran.code == 0
    assert "Example:" in ran.out
    assert f"$ hsmd {' '.join(path)}" in ran.out
    assert "--json" in ran.out
    explanation = COMMANDS[path].help
    assert len(explanation.split()) >= 6, "one sentence at least"
    assert "  " not in explanation


@pytest.mark.parametrize("path", COMMANDS, ids=" ".join)
def test_every_option_has_help(path: tuple[str, ...]) -> None:
    for parameter in COMMANDS[path].params:
        assert parameter.help, f"{parameter.name} of {' '.join(path)} has no help"


@pytest.mark.parametrize("path", COMMANDS, ids=" ".join)
def test_a_wrong_option_is_one_line_and_exit_code_2(run: Run, path: tuple[str, ...]) -> None:
    ran = run(*path, "--no-such-option")
    assert (ran.code, ran.out) == (2, "")
    assert ran.err.count("\n") == 1
    assert f"see: hsmd {' '.join(path)} --help" in ran.err


@pytest.mark.parametrize("path", COMMANDS, ids=" ".join)
def test_with_json_a_wrong_option_is_a_document_too(run: Run, path: tuple[str, ...]) -> None:
    ran = run(*path, "--json", "--no-such-option")
    assert (ran.code, ran.err.count("\n")) == (2, 1)
    error = json.loads(ran.out)["error"]
    assert "No such option: --no-such-option" in error["text"]
    assert error["next"] == f"see: hsmd {' '.join(path)} --help"
    assert error["exit_code"] == 2


@pytest.mark.parametrize(
    ("line", "text"),
    [
        ("kye list --json", "No such command 'kye'"),
        ("key lsit --json", "No such command 'lsit'"),
        ("--json", "No such option: --json"),
        ("key --json", "No such option: --json"),
        ("key show --json", "Missing argument 'KEY'"),
        ("grant add a b --max-uses x --json", "Invalid value for '--max-uses'"),
        ("key generate a/b --json", "Invalid value for 'KEY'"),
        ("key generate --json", "Missing argument 'KEY'"),
    ],
)
def test_with_json_every_usage_error_is_a_document(run: Run, line: str, text: str) -> None:
    ran = run(*line.split())
    assert ran.code == 2
    error = json.loads(ran.out)["error"]
    assert text in error["text"]
    assert (error["exit_code"], error["next"][:10]) == (2, "see: hsmd ")
    assert ran.err == f"hsmd: {error['text']} - {error['next']}\n"


def test_what_is_for_another_program_asks_for_no_document(run: Run) -> None:
    ran = run("events", "--no-such-option", "--", "program", "--json")
    assert (ran.code, ran.out) == (2, "")


def test_root_help_lists_every_group_and_imports_none_of_them() -> None:
    script = (
        "import sys; from hsmd.cli import run; code = run(['--help'])\n"
        "heavy = {'hsmd.cli.key', 'hsmd.client', 'asyncssh', 'sqlalchemy', 'pkcs11', 'msgspec', 'cryptography'}\n"
        "loaded = heavy & set(sys.modules)\n"
        "assert not loaded, loaded\nsys.exit(code)"
    )
    done = _python(script)
    assert done.returncode == 0, done.stderr
    assert all(name in done.stdout for name in ENTRIES)


def test_help_works_without_the_daemons_packages() -> None:
    """Front ends install neither the PKCS#11 nor the database packages."""
    lines = [[*path, "--help"] for path in COMMANDS]
    script = (
        "import sys\n"
        "for name in ('pkcs11', 'sqlalchemy', 'alembic', 'psycopg'): sys.modules[name] = None\n"
        f"from hsmd.cli import run; sys.exit(sum(run(line) for line in {lines!r}))"
    )
    done = _python(script)
    assert (done.returncode, done.stderr) == (0, "")


def test_an_error_names_the_packages_to_install(tmp_path: Path) -> None:
    script = (
        "import sys; sys.modules['sqlalchemy'] = None\n"
        "from hsmd.cli import run; sys.exit(run(['init', '--softhsm', '--operator', 'x', '--profile', 'profile']))"
    )
    done = _python(script, tmp_path)
    assert done.returncode == 1
    assert "pip install 'hsmd[daemon]'" in done.stderr
    assert "Traceback" not in done.stderr
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def _python(script: str, directory: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run a script in a separate interpreter."""
    environment = {**os.environ, "PYTHONPATH": str(Path(hsmd.__file__).parents[1])}
    return subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        timeout=60,
        cwd=directory,
        env=environment,
        check=False,
    )


@pytest.mark.parametrize("old", ["trust-ca", "distrust-ca"])
def test_old_names_still_work_and_are_not_shown(run: Run, old: str) -> None:
    assert run("client", old, "--help").code == 0
    assert f" {old} " not in run("client", "--help").out


def test_unknown_command_suggests_the_right_one(run: Run) -> None:
    ran = run("kye", "list")
    assert ran.code == 2
    assert "Did you mean 'key'" in ran.err


def test_version(run: Run) -> None:
    from hsmd import __version__

    assert run("--version").out == f"hsmd {__version__}\n"
