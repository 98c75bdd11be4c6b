"""A small writer of SVG: shapes and texts as elements with classes, one style sheet for light and dark pages, no scripts."""

from __future__ import annotations

import re
from html import escape

_XML = re.compile("[^\t\n\r -\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
"""What no XML document may have (XML 1.0, section 2.2)."""


class Drawing:
    """Elements in the order in which they are drawn. Numbers are rounded to tenths, so the text is always the same."""

    def __init__(self, style: str) -> None:
        self._style = style
        self._elements: list[str] = []

    def text(self, x: float, y: float, content: str, kind: str, title: str = "") -> None:
        """A line of text; `title` is shown when the pointer rests on it."""
        inner = _clean(content) + (f"<title>{_clean(title)}</title>" if title else "")
        self._elements.append(f'<text class="{kind}" x="{_number(x)}" y="{_number(y)}">{inner}</text>')

    def box(self, x: float, y: float, width: float, height: float, kind: str, radius: float = 0) -> None:
        """A rectangle."""
        corners = f' rx="{_number(radius)}"' if radius else ""
        self._elements.append(
            f'<rect class="{kind}" x="{_number(x)}" y="{_number(y)}" width="{_number(width)}" '
            f'height="{_number(height)}"{corners}/>'
        )

    def path(self, data: str, kind: str) -> None:
        """A path; `data` as SVG writes it."""
        self._elements.append(f'<path class="{kind}" d="{data}"/>')

    def render(self, width: float, height: float, title: str, description: str) -> str:
        """The document. It fills its own rectangle, so that it is legible on any page."""
        size = f"{_number(width)} {_number(height)}"
        head = (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {size}" width="{_number(width)}" '
            f'height="{_number(height)}" role="img" aria-labelledby="title desc">'
        )
        about = f'<title id="title">{_clean(title)}</title>\n<desc id="desc">{_clean(description)}</desc>'
        ground = f'<rect class="page" width="{_number(width)}" height="{_number(height)}"/>'
        lines = [head, about, f"<style>\n{self._style}</style>", ground, *self._elements, "</svg>"]
        return "\n".join(lines) + "\n"


def curve(*points: tuple[float, float]) -> str:
    """A cubic curve: where it begins, two points that it is drawn to, and where it ends."""
    first, *others = (f"{_number(x)} {_number(y)}" for x, y in points)
    return f"M{first}C{' '.join(others)}"


def triangle(x: float, y: float, size: float) -> str:
    """An arrow head whose tip, on the right, is at this point."""
    left, half = _number(x - size), size / 2
    return f"M{_number(x)} {_number(y)}L{left} {_number(y - half)} {left} {_number(y + half)}z"


def _number(value: float) -> str:
    return f"{round(value, 1):g}" if abs(value) < 100_000 else str(round(value))


def _clean(text: str) -> str:
    return escape(_XML.sub("\ufffd", text), quote=True)
