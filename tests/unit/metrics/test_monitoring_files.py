"""docs/monitoring: each metric that rules, dashboard and page name is exposed, and the page names each that is."""

from __future__ import annotations

import json
import re

import pytest

from hsmd.health import agent as of_agent, daemon as of_daemon
from hsmd.metrics.agent_families import AgentNumbers, agent_families
from hsmd.metrics.daemon_families import families
from hsmd.metrics.exposition import Process, pieces
from hsmd.protocol.messages import DaemonLink, Health
from tests.support.metrics import NOON, numbers_of
from tests.support.monitoring_files import DASHBOARD, DIRECTORY, exposed, expressions, names_in

PAGE = DIRECTORY.parent / "monitoring.md"


@pytest.fixture(scope="module")
def known() -> set[str]:
    health = Health("well", [], "web1", "1", NOON, [DaemonLink("10.9.0.1:7440", "in-use")], 1, 2)
    numbers = AgentNumbers(health, 1, 1, {"performed": 1}, 1, 0, 0, NOON)
    texts = [pieces(families(numbers_of())), pieces(agent_families(numbers)), pieces(Process().families())]
    return {"up", *(name for text in texts for name in exposed(b"".join(text).decode()))}


@pytest.mark.parametrize("file", sorted(expressions()))
def test_each_metric_in_an_expression_is_exposed(file: str, known: set[str]) -> None:
    found = {expression: names_in(expression) for expression in expressions()[file]}
    assert len(found) > 15
    assert all(found.values()), "each expression names a metric"
    assert {name for names in found.values() for name in names} - known == set()


def test_the_page_names_each_metric_and_no_other(known: set[str]) -> None:
    table = "\n".join(line for line in PAGE.read_text().splitlines() if line.startswith("| `hsmd_"))
    named = set(re.findall(r"`(hsmd_[a-z_]+)", table))
    documented = {
        name.removesuffix(suffix) for name in known for suffix in ("_bucket", "_count", "_sum")
    } & named
    documented |= known & named
    assert named - documented == set(), "named, but not exposed"
    others = {name for name in known if name.startswith("hsmd_")} - named
    assert {name for name in others if name.rpartition("_")[0] not in named} == set(), (
        "exposed, but not named"
    )


def test_the_page_names_each_condition() -> None:
    text = PAGE.read_text()
    assert [
        name for name in {*of_daemon.CONDITIONS, *of_agent.CONDITIONS} if f"| `{name}` |" not in text
    ] == []


def test_conditions_in_expressions_exist() -> None:
    named = {
        condition
        for each in expressions().values()
        for expression in each
        for text in re.findall(r'condition=~?"([^"]*)"', expression)
        for condition in text.split("|")
    }
    assert named and named <= {*of_daemon.CONDITIONS, *of_agent.CONDITIONS}


def test_the_panels_of_the_dashboard_do_not_overlap() -> None:
    panels = json.loads(DASHBOARD.read_text())["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    cells = [
        (x, y)
        for place in (panel["gridPos"] for panel in panels)
        for x in range(place["x"], place["x"] + place["w"])
        for y in range(place["y"], place["y"] + place["h"])
    ]
    assert len(set(cells)) == len(cells)
    assert max(x for x, _ in cells) == 23
