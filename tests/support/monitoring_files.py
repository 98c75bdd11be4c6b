"""The rules and the dashboard of docs/monitoring, and the names of metrics in them."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from prometheus_client.parser import text_string_to_metric_families

DIRECTORY = Path(__file__).parents[2] / "docs" / "monitoring"
RULES, DASHBOARD = DIRECTORY / "hsmd.rules.yml", DIRECTORY / "hsmd-dashboard.json"
NAME = re.compile(r"\b(?:hsmd_[a-z_]+|process_[a-z_]+|up)\b")


def expressions() -> dict[str, list[str]]:
    """The PromQL expressions by file."""
    panels: list[dict[str, Any]] = json.loads(DASHBOARD.read_text())["panels"]
    return {
        RULES.name: re.findall(r"^ +expr: (.*)$", RULES.read_text(), re.MULTILINE),
        DASHBOARD.name: [target["expr"] for panel in panels for target in panel.get("targets", ())],
    }


def names_in(text: str) -> set[str]:
    """The metrics that an expression names. Names in brackets and braces are those of labels."""
    return set(NAME.findall(re.sub(r"\{[^}]*\}", "", text)))


def exposed(text: str) -> set[str]:
    """All names that samples of the families of an exposition have, also of families without a sample now."""
    return {name for family in text_string_to_metric_families(text) for name in _names(family)}


def _names(family: Any) -> Iterator[str]:
    match family.type:
        case "counter":
            yield family.name + "_total"
        case "histogram":
            yield from (family.name + suffix for suffix in ("_bucket", "_count", "_sum"))
        case _:
            yield family.name
