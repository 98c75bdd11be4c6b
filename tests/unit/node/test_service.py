"""The loop of `hsmd node run`: what does not end it."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest

from hsmd.node import service as module, state
from hsmd.node.passes import Node
from hsmd.node.service import Service
from hsmd.node.state import NodeState
from tests.support.node_files import node_toml


def test_a_fault_in_a_pass_does_not_end_the_service(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "node.toml"
    file.write_text(node_toml(tmp_path))
    service = Service(file)
    passes: list[int] = []

    def make_pass(*_: object) -> NodeState:
        passes.append(len(passes))
        if len(passes) == 1:
            raise TypeError("text of a daemon")
        service.stop()
        return NodeState()

    monkeypatch.setattr(Node, "make_pass", make_pass)
    monkeypatch.setattr(module, "RETRY", timedelta(0))
    service.run()
    assert len(passes) == 2


def test_a_start_tells_what_was_a_problem_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "node.toml"
    file.write_text(node_toml(tmp_path))
    (tmp_path / "state").mkdir()
    known = NodeState(daemon_error="no daemon answers")
    state.write(tmp_path / "state", known)
    service = Service(file)
    told: list[str] = []
    passes: list[int] = []

    def make_pass(*_: object) -> NodeState:
        passes.append(len(passes))
        if len(passes) == 2:
            service.stop()
        return known

    monkeypatch.setattr(Node, "make_pass", make_pass)
    monkeypatch.setattr(module, "RETRY", timedelta(0))
    monkeypatch.setattr(module, "log", Told(told))
    service.run()
    assert told == ["no daemon answers"], "once, and not in each pass"


class Told:
    """A log of problems."""

    def __init__(self, told: list[str]) -> None:
        self._told = told

    def warning(self, event: str, *, error: str) -> None:
        self._told.append(error)
