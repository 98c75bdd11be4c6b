"""The picture of a plan as SVG: edges as arcs on the left, a row for each node or group, a column for each stage."""

from __future__ import annotations

from collections.abc import Mapping

from hsmd.rollover.picture_rows import Arc, Row, Rows, rows_of
from hsmd.rollover.plan import Kind, Plan
from hsmd.rollover.svg import Drawing, curve, triangle
from hsmd.rollover.topology import format_time

_MARGIN = 24.0
_ARCS = 150.0
"""Width of the part with the arcs."""
_LABEL_CHARACTERS = 22
_CHARACTER = 7.3
"""Width of a character of a label; captions are narrower by the ratio of the font sizes."""
_CAPTION_CHARACTER = 6.1
_ROW = 46.0
_TOP = 158.0
_LEAST_WIDTH = 740.0
_COLUMN, _NARROW_COLUMN = 196.0, 104.0
_WIDE_COLUMNS = 4
"""Stages up to which a column has room to name what a task waits for."""
_CHIP = 34.0
_NAMED = (2, 1, 0)
"""How many names a caption has, the first that fit."""
_NAMED_IN_TITLE = 12

KINDS: Mapping[Kind, str] = {
    Kind.ANCHOR: "keep the new key beside the old one",
    Kind.CERTIFICATE: "use the new certificate",
    Kind.BUNDLE: "both at once, with the link in the chain",
    Kind.REMOVAL: "remove the old key",
}
_STYLE = """\
text { font-family: ui-monospace, "DejaVu Sans Mono", Menlo, Consolas, monospace; font-size: 12px; fill: #1f2328; }
.head { font-size: 17px; font-weight: bold; }
.soft { font-size: 10.5px; fill: #57606a; }
.mark { fill: #ffffff; font-weight: bold; text-anchor: middle; }
.page { fill: #ffffff; }
.band { fill: #f3f5f7; }
.arc { fill: none; stroke: #57606a; stroke-width: 1.3; }
.dashed { fill: none; stroke: #57606a; stroke-width: 1.3; stroke-dasharray: 4 3; }
.tip { fill: #57606a; }
.A { fill: #0969da; }
.C { fill: #1a7f37; }
.AC { fill: #8250df; }
.R { fill: #9a4a00; }
@media (prefers-color-scheme: dark) {
text { fill: #e6edf3; }
.soft { fill: #9ea7b3; }
.mark { fill: #ffffff; }
.page { fill: #0d1117; }
.band { fill: #161b22; }
.arc, .dashed { stroke: #9ea7b3; }
.tip { fill: #9ea7b3; }
.A { fill: #1f6feb; }
}
"""


def draw(plan: Plan) -> str:
    """The SVG document; the same plan gives the same text."""
    shown = rows_of(plan)
    column = _COLUMN if shown.columns <= _WIDE_COLUMNS else _NARROW_COLUMN
    drawing = Drawing(_STYLE)
    left = _MARGIN + _ARCS
    label = max([len(_short(row.label)) for row in shown.rows], default=0) * _CHARACTER + 20
    legend, end = _legend(plan)
    width = max(left + label + shown.columns * column, end, _LEAST_WIDTH) + _MARGIN
    height = _TOP + len(shown.rows) * _ROW + _MARGIN
    title = f"Rollover of {plan.topology.authority.name}, {plan.order.value} order"
    _draw_head(drawing, plan, shown, title, legend)
    _draw_columns(drawing, plan, shown, left + label, column)
    for at, row in enumerate(shown.rows):
        y = _TOP + at * _ROW
        if at % 2 == 0:
            drawing.box(left, y, width - left - _MARGIN, _ROW, "band")
        drawing.text(left + 10, y + 27, _short(row.label), "name", _title(row))
        _draw_cells(drawing, row, shown.rows, left + label, y, column)
    for arc in shown.arcs:
        _draw_arc(drawing, arc, left)
    return drawing.render(width, height, title, _summary(plan, shown))


def _legend(plan: Plan) -> tuple[list[tuple[float, Kind]], float]:
    """Where each kind of task that the plan has is explained, and where that line ends."""
    used = {task.kind for task in plan.tasks}
    found, x = [], _MARGIN
    for kind, words in KINDS.items():
        if kind in used:
            found.append((x, kind))
            x += _CHIP + 26 + len(words) * _CAPTION_CHARACTER
    return found, x


def _draw_head(
    drawing: Drawing, plan: Plan, shown: Rows, title: str, legend: list[tuple[float, Kind]]
) -> None:
    drawing.text(_MARGIN, 36, _cut(title, 70), "head", title)
    drawing.text(_MARGIN, 56, _summary(plan, shown), "soft")
    for x, kind in legend:
        _draw_chip(drawing, x, 66, kind)
        drawing.text(x + _CHIP + 6, 80, KINDS[kind], "soft")
    drawing.text(
        _MARGIN, 106, "arrows point to servers; dashed: the server does not authenticate its clients", "soft"
    )


def _summary(plan: Plan, shown: Rows) -> str:
    nodes, edges = len(plan.topology.nodes), len(plan.topology.edges)
    grouped = f" in {len(shown.rows)} groups" if shown.grouped else ""
    return (
        f"{nodes:,} nodes{grouped}, {edges:,} edges, {len(plan.tasks):,} tasks in {plan.stages:,} stages, "
        f"{format_time(plan.topology.schedule.starts)} to {format_time(plan.topology.schedule.deadline)}"
    )


def _draw_columns(drawing: Drawing, plan: Plan, shown: Rows, left: float, column: float) -> None:
    first: dict[int, str] = {}
    for task in plan.tasks:
        at, until = (task.stage - 1) // shown.width, format_time(task.not_after)
        first[at] = min(first.get(at, until), until)
    for at in range(shown.columns):
        low, high = at * shown.width + 1, min((at + 1) * shown.width, plan.stages)
        x = left + at * column + 6
        drawing.text(x, _TOP - 20, f"Stage {low}" if low == high else f"{low}-{high}", "name")
        until = first[at][:16].replace("T", " ") + "Z"
        drawing.text(x, _TOP - 6, f"until {until}" if column == _COLUMN else until[5:], "soft")


def _draw_cells(
    drawing: Drawing, row: Row, rows: tuple[Row, ...], left: float, y: float, column: float
) -> None:
    """The chips of one row; behind them the numbers of tasks, and below a chip that is alone what it waits for."""
    for at in sorted({column for column, _ in row.cells}):
        x = left + at * column + 6
        kinds = [kind for kind in Kind if (at, kind) in row.cells]
        for turn, kind in enumerate(kinds):
            _draw_chip(drawing, x + turn * (_CHIP + 5), y + 6, kind)
        counts = [row.cells[at, kind] for kind in kinds]
        end, words = len(kinds) * (_CHIP + 5), " + ".join(f"{count:,}" for count in counts) + " nodes"
        if max(counts) > 1 and end + 7 + len(words) * _CAPTION_CHARACTER < column:
            drawing.text(x + end + 1, y + 20, words, "soft")
        if len(kinds) == 1:
            awaited = row.awaited.get((at, kinds[0]), {})
            room = int((column - 10) / _CAPTION_CHARACTER)
            title = awaited_words(awaited, rows, _NAMED_IN_TITLE)
            drawing.text(x, y + 38, _caption(awaited, rows, room), "soft", title)


def _caption(awaited: Mapping[tuple[Kind, int], int], rows: tuple[Row, ...], room: int) -> str:
    """What a task waits for besides those of its own node, in a length that fits."""
    shown = (awaited_words(awaited, rows, named) for named in _NAMED)
    total = sum(awaited.values())
    return next((text for text in shown if len(text) <= room), f"after {total:,} other{'s' * (total > 1)}")


def awaited_words(awaited: Mapping[tuple[Kind, int], int], rows: tuple[Row, ...], named: int) -> str:
    """`after A of web1, web2 and 3 more`."""
    parts = []
    for kind in Kind:
        labels = [rows[row].label for each, row in sorted(awaited) if each is kind]
        if labels:
            more = len(labels) - named
            words = f"{', '.join(labels[:named])} and {more} more" if more > 0 else ", ".join(labels)
            total = sum(count for (each, _), count in awaited.items() if each is kind)
            parts.append(f"{kind.value} of {words if named else f'{total:,}'}")
    return f"after {'; '.join(parts)}" if parts else ""


def _draw_chip(drawing: Drawing, x: float, y: float, kind: Kind) -> None:
    drawing.box(x, y, _CHIP, 20, kind.value, 4)
    drawing.text(x + _CHIP / 2, y + 14.5, kind.value, "mark", KINDS[kind])


def _draw_arc(drawing: Drawing, arc: Arc, x: float) -> None:
    """An arc between two rows; the further apart they are, the wider."""
    first, second = (_TOP + at * _ROW + 23 for at in (arc.first, arc.second))
    kind = "arc" if arc.mutual else "dashed"
    tip = x - 1
    if arc.first == arc.second:  # edges within a group, or of a node with itself
        drawing.path(
            curve((tip - 7, first - 6), (tip - 34, first - 16), (tip - 34, first + 16), (tip - 7, first + 6)),
            kind,
        )
        drawing.path(triangle(tip, first + 5, 8), "tip")
        return
    reach = min(_ARCS * 1.25, 26 + 20 * (arc.second - arc.first) ** 0.85)
    start, end = tip - 7, tip - 7
    drawing.path(curve((start, first), (start - reach, first), (end - reach, second), (end, second)), kind)
    if arc.to_second:
        drawing.path(triangle(tip, second, 9), "tip")
    if arc.to_first:
        drawing.path(triangle(tip, first, 9), "tip")


def _title(row: Row) -> str:
    return ", ".join(row.names[:20]) + (f" and {len(row.names) - 20:,} more" if len(row.names) > 20 else "")


def _short(label: str) -> str:
    name, plus, count = label.partition(" +")
    room = _LABEL_CHARACTERS - len(plus + count)
    return _cut(name, room) + plus + count


def _cut(text: str, room: int) -> str:
    return text if len(text) <= room else f"{text[: room - 1]}\u2026"
