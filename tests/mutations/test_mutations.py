"""The list of mitigations is right, and removing one of a sample is noticed; `scripts/soak mutations` removes each of them."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from tests.mutations import mitigations
from tests.mutations.copied_tree import CopiedTree
from tests.mutations.mitigations import Mitigation

LISTED = mitigations.load()
SAMPLE = {
    "the size of the progress page is sealed",
    "a directory for locks that others can write to is not used",
}
"""A few that are fast."""


def test_every_entry_names_a_text_that_occurs_once_and_a_test_that_exists() -> None:
    assert [fault for each in LISTED for fault in each.faults()] == []


def test_no_mitigation_is_listed_twice() -> None:
    assert [name for name, count in Counter(each.name for each in LISTED).items() if count > 1] == []


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> CopiedTree:
    return CopiedTree(tmp_path_factory.mktemp("copy"))


@pytest.mark.parametrize("name", sorted(SAMPLE))
def test_a_removed_mitigation_is_noticed(tree: CopiedTree, name: str) -> None:
    [mitigation] = [each for each in LISTED if each.name == name]
    noticed, line = tree.notices(mitigation)
    assert noticed, line


def test_a_change_that_removes_nothing_is_not_called_noticed(tree: CopiedTree) -> None:
    """The copy, its environment and the tests work: they pass when only a comment changes."""
    [sealed] = [each for each in LISTED if each.name == "the size of the progress page is sealed"]
    harmless = Mitigation("none", sealed.file, "import fcntl", "import fcntl  # as before", sealed.test)
    noticed, line = tree.notices(harmless)
    assert not noticed
    assert "passed" in line


def test_entries_that_remove_nothing_are_refused(tmp_path: Path) -> None:
    entry = Mitigation("x", "hsmd/errors.py", "no such text", "", "tests/unit/test_layout.py::test_nothing")
    assert [fault.partition(": ")[2] for fault in entry.faults()] == [
        "its text occurs 0 times in hsmd/errors.py, not once",
        "there is no test tests/unit/test_layout.py::test_nothing",
    ]
    with pytest.raises(ValueError, match="no Python"):
        Mitigation("x", "a.py", "1", "(", "t").removed_from("a = 1")
