"""Tables and pictures of plans: deterministic, complete for small fleets, in groups for large ones, well-formed for all."""

from __future__ import annotations

import re
from dataclasses import replace
from itertools import pairwise
from xml.etree import ElementTree as ET

import pytest

from hsmd.rollover import plan_tables
from hsmd.rollover.picture import draw
from hsmd.rollover.picture_rows import MAX_COLUMNS, MAX_NODES, MAX_ROWS, rows_of
from hsmd.rollover.plan import Order, Plan
from hsmd.rollover.planner import plan
from hsmd.rollover.topology import Topology
from tests.support.rollover import SCHEDULE, Pair, chain, fleet, mesh, node, ring, star, topology

SVG = "{http://www.w3.org/2000/svg}"
QUICK = replace(SCHEDULE, task_s=60)
SHAPES = {
    "star": star(8),
    "chain": chain(9),
    "cycle": ring(7),
    "mesh": mesh(8),
    "itself": [("a", "a", True)],
    "fleet": fleet(),
    "pairs": [(f"c{at}", f"s{at}", at % 2 == 0) for at in range(300)],
    "long-chain": chain(400),
    "many-clients": star(23, mutual=False),
    "nothing": [],
}


def made(edges: list[Pair], order: Order = Order.MIXED) -> Plan:
    return plan(topology(edges, ["idle"], schedule=QUICK), order)


@pytest.mark.parametrize("order", [Order.SPLIT, Order.MIXED])
@pytest.mark.parametrize("shape", SHAPES)
def test_pictures_are_well_formed_and_their_texts_are_inside_and_apart(shape: str, order: Order) -> None:
    found = made(SHAPES[shape], order)
    text = draw(found)
    assert draw(found) == text
    root = ET.fromstring(text)
    width, height = float(root.attrib["width"]), float(root.attrib["height"])
    assert root.attrib["viewBox"] == f"0 0 {width:g} {height:g}"
    lines: dict[float, list[tuple[float, float]]] = {}
    for each in root.iter(f"{SVG}text"):
        x, y, kind = float(each.attrib["x"]), float(each.attrib["y"]), each.attrib["class"]
        if kind != "mark":
            length = len(each.text or "") * {"head": 10.3, "soft": 6.3}.get(kind, 7.2)
            lines.setdefault(y, []).append((x, x + length))
            assert x >= 0 and x + length <= width and 0 < y <= height, each.text
    for spans in lines.values():
        assert all(end <= start for (_, end), (start, _) in pairwise(sorted(spans)))
    assert max(float(each.attrib["y"]) for each in root.iter(f"{SVG}rect") if "y" in each.attrib) < height


def test_a_picture_has_no_scripts_and_follows_the_scheme_of_the_page() -> None:
    text = draw(made(mesh(3)))
    assert "prefers-color-scheme: dark" in text and 'class="page"' in text
    assert not re.search(r"<script|javascript:|\bon\w+=|href|@import|url\(", text)
    assert {each.tag for each in ET.fromstring(text).iter()} <= {
        f"{SVG}{name}" for name in ("svg", "title", "desc", "style", "rect", "text", "path")
    }


def test_what_people_wrote_is_text_in_a_picture() -> None:
    shown = topology(star(1))
    hostile = replace(shown.authority, name='</text><script>alert("1")</script>&amp; \u2067')
    text = draw(plan(Topology(hostile, shown.schedule, shown.nodes, shown.edges)))
    assert "<script" not in text
    assert "</text><script>" in (ET.fromstring(text).findtext(f"{SVG}title") or "")


def test_each_node_of_a_small_fleet_has_a_row_and_each_task_a_chip() -> None:
    found = made(star(MAX_NODES - 2))
    root = ET.fromstring(draw(found))
    names = [each.text for each in root.iter(f"{SVG}text") if each.attrib["class"] == "name"]
    assert set(names) >= {each.name for each in found.topology.nodes}
    chips = [each for each in root.iter(f"{SVG}rect") if each.attrib["class"] in ("A", "C", "AC", "R")]
    legend = len({task.kind for task in found.tasks})
    assert len(chips) - legend == len(found.tasks)


@pytest.mark.parametrize("shape", ["fleet", "pairs", "long-chain"])
def test_a_large_fleet_is_shown_in_groups_that_add_up(shape: str) -> None:
    found = made(SHAPES[shape])
    shown = rows_of(found)
    assert shown.grouped and len(shown.rows) <= MAX_ROWS and shown.columns <= MAX_COLUMNS
    assert sum(len(row.names) for row in shown.rows) == len(found.topology.nodes)
    assert sum(sum(row.cells.values()) for row in shown.rows) == len(found.tasks)
    assert sum(arc.count for arc in shown.arcs) == len(found.topology.edges)
    assert sum(int(row[3].replace(",", "")) for row in plan_tables.group_rows(found)) == len(found.tasks)


def test_groups_of_a_fleet_are_its_tiers() -> None:
    shown = rows_of(plan(topology(fleet())))
    assert [row.label for row in shown.rows] == ["web0000 +1,899", "app00 +79", "db00 +19"]
    assert [(arc.first, arc.second, arc.to_second, arc.to_first) for arc in shown.arcs] == [
        (0, 1, True, False),
        (1, 2, True, False),
    ]


def test_a_table_has_a_row_for_each_task_with_what_it_waits_for() -> None:
    nodes = {"client2": node("client2", "server")}
    found = plan(topology(star(2), nodes=nodes, by_hand=["client1"]))
    rows = {row[1].split()[0] + row[2]: row for row in plan_tables.task_rows(found)}
    assert len(rows) == len(found.tasks)
    assert (
        rows["Cserver"][3] == "it has the new key itself; its clients have the new key: client1 and client2"
    )
    assert [rows[name][4] for name in ("Aclient1", "Aclient2", "Aserver")] == [
        "by hand",
        "server",
        "directly",
    ]
    bundled = plan(topology(star(2)), Order.BUNDLED)
    assert plan_tables.task_rows(bundled)[0][1] == "AC  both at once, with the link for server"


def test_of_many_reasons_the_first_are_shown() -> None:
    edges = [(f"c{at}", f"s{at}", True) for at in range(60)]
    edges += [(f"s{at}", f"c{at}", True) for at in range(60)]
    found = plan(topology(edges))
    assert len(plan_tables.way_rows(found)) == 60
    assert plan_tables.way_rows(found, everything=False)[-1][1] == "40 more rows"


def test_components_that_are_alike_share_rows() -> None:
    shown = rows_of(made(SHAPES["pairs"]))
    assert [row.label for row in shown.rows] == ["c0 +149", "s0 +149", "c1 +149", "s1 +149", "idle"]
