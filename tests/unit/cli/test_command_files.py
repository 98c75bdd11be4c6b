"""`hsmd X Y Z` is in the longest of cli/X.py, cli/X/Y.py and cli/X/Y/Z.py that exists; the package's `__init__.py` counts as cli/X.py."""

from __future__ import annotations

import inspect
import keyword
from pathlib import Path

import pytest

from hsmd import cli
from tests.support.cli import COMMANDS

CLI = Path(cli.__file__).parent


def file_of(path: tuple[str, ...], root: Path) -> Path | None:
    """The file that holds a command according to the rule; None if there is no such file."""
    found = None
    for length in range(1, len(path) + 1):
        stem = root.joinpath(*(_module(word) for word in path[:length]))
        for candidate in (stem / "__init__.py", stem.with_suffix(".py")):
            found = candidate if candidate.is_file() else found
    return found


def _module(word: str) -> str:
    name = word.replace("-", "_")
    return f"{name}_" if keyword.iskeyword(name) else name


def is_in_its_file(path: tuple[str, ...], function: object, root: Path = CLI) -> bool:
    """Whether a command's function is defined in the file that the rule names."""
    source = inspect.getsourcefile(function)  # type: ignore[arg-type]
    expected = file_of(path, root)
    return source is not None and expected is not None and Path(source).samefile(expected)


@pytest.mark.parametrize("path", COMMANDS, ids=" ".join)
def test_each_command_is_in_the_file_of_its_name(path: tuple[str, ...]) -> None:
    function = inspect.unwrap(COMMANDS[path].callback)
    assert is_in_its_file(path, function), (
        f"hsmd {' '.join(path)} is in {inspect.getsourcefile(function)}, not in {file_of(path, CLI)}"
    )


def test_the_walk_reaches_commands_of_every_depth() -> None:
    depths = {len(path) for path in COMMANDS}
    assert depths == {1, 2, 3}
    assert ("key", "import") in COMMANDS and ("agent", "rotate-key") in COMMANDS


@pytest.mark.parametrize(
    ("path", "files", "expected"),
    [
        (("a",), ["a.py"], "a.py"),
        (("a",), ["a/__init__.py"], "a/__init__.py"),
        (("a", "b"), ["a.py"], "a.py"),
        (("a", "b"), ["a/__init__.py"], "a/__init__.py"),
        (("a", "b"), ["a/__init__.py", "a/b.py"], "a/b.py"),
        (("a", "b", "c"), ["a/__init__.py", "a/b.py"], "a/b.py"),
        (("a", "b", "c"), ["a/__init__.py", "a/b/__init__.py", "a/b/c.py"], "a/b/c.py"),
        (("a", "go-on"), ["a/__init__.py", "a/go_on.py"], "a/go_on.py"),
        (("a", "import"), ["a/__init__.py", "a/import_.py"], "a/import_.py"),
    ],
)
def test_the_rule_names_the_longest_file(
    tmp_path: Path, path: tuple[str, ...], files: list[str], expected: str
) -> None:
    for name in files:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    assert file_of(path, tmp_path) == tmp_path / expected


def test_a_command_in_another_file_is_found() -> None:
    """Positive control: the check fails for a command whose function is elsewhere, or whose file does not exist."""
    function = inspect.unwrap(COMMANDS["key", "generate"].callback)
    assert is_in_its_file(("key", "generate"), function)
    assert not is_in_its_file(("key", "adopt"), function)
    assert not is_in_its_file(("nothing", "here"), function)
