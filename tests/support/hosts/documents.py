"""The operators' documents as a script: what stands in marked blocks is done on hosts, word by word.

A comment before a fenced block says where the block is a step, and of which journey; several comments may precede it:

    <!-- run: HOST JOURNEY -->                  bash runs it on HOST is one of HOSTS
    <!-- type: HOST JOURNEY WHAT -->            the same, and SECRETS[WHAT] is typed
    <!-- carry: HOST:PATH HOST:PATH JOURNEY --> what it does (scp, a USB stick) is done by copying the file
    <!-- example: WHY -->                       it is not run

Steps of a journey are done in the order in which they stand, page after page as in PAGES.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.support.hosts.host import Host

DOCUMENTS = Path(__file__).resolve().parents[3] / "docs"
PAGES = ("install.md", "servers.md", "monitoring.md", "day2.md", "troubleshooting.md")
HOSTS = ("key", "key2", "database", "front", "operator")

ADDRESSES = {
    "key": "10.9.0.1",
    "front": "10.9.0.2",
    "key2": "10.9.0.3",
    "operator": "10.9.0.4",
    "database": "10.9.0.9",
}
MODULE = "/usr/lib/vendor/libpkcs11.so"
TOKEN_LABEL = "tls"
SECRETS = {
    "PIN": "secret-pin-1234",
    "NEWPIN": "secret-pin-5678",
    "DATABASE": "database-secret\ndatabase-secret",
}
HSMD_SOURCE = "/srv/hsmd"
SOURCES = {
    "PIP_FIND_LINKS": HSMD_SOURCE,
    "PIP_CONSTRAINT": f"{HSMD_SOURCE}/constraints",
    "DEBIAN_FRONTEND": "noninteractive",
}
"""THE table of what differs between the documents and the test bed. The hosts have the addresses of the documents, and the
module of their path (SoftHSM's). What is typed at a terminal is here (a new password twice), and where pip finds hsmd: in a
wheel of this tree."""
ONLINE = re.compile(r"\b(apt-get|apt|pip)\b")
"""Steps that need servers of packages."""

_MARK = re.compile(r"<!--\s*(\w+):\s*(.*?)\s*-->\s*\Z")
_KINDS = ("run", "type", "carry", "example")


@dataclass(frozen=True, slots=True)
class Step:
    """A marked block. `place` is file and line, `typed` names what is typed, `carried` the files of a `carry`."""

    place: str
    kind: str
    host: str
    journey: str
    text: str
    typed: str = ""
    carried: tuple[str, str, str, str] = ("", "", "", "")

    @property
    def title(self) -> str:
        """Its first line, shortened."""
        lines = self.text.splitlines()
        return lines[0][:70] + ("" if len(lines) == 1 and len(lines[0]) <= 70 else " ...")


def steps(journey: str, pages: Iterable[str] = PAGES) -> list[Step]:
    """The steps of a journey. AssertionError if there are none."""
    found = [step for step in all_steps(pages) if step.journey == journey]
    assert found, f"no document has a step of the journey {journey!r}"
    return found


def all_steps(pages: Iterable[str] = PAGES) -> list[Step]:
    """Every step of these pages."""
    return [step for page in pages for step in read((DOCUMENTS / page).read_text(), page)]


def read(text: str, name: str) -> list[Step]:
    """The steps in a document. AssertionError, with file and line, for a mark that is wrong."""
    return [step for step, _ in _marked(text, name) if step is not None]


def unmarked(text: str, name: str) -> list[str]:
    """Where blocks of commands are that no comment says anything about."""
    marked = {line for _, line in _marked(text, name)}
    fences = [number for number, line in _lines(text) if line.strip() == "```sh"]
    return [f"{name}:{number}" for number in fences if number not in marked]


def carry_out(step: Step, hosts: Mapping[str, Host]) -> str:
    """Do a step; return what it printed. AssertionError with its place if it fails."""
    try:
        if step.kind == "carry":
            source, path, target, to = step.carried
            hosts[target].write(to, hosts[source].read(path), "600")
            return ""
        typed = SECRETS[step.typed] + "\n" if step.typed else ""
        online = ONLINE.search(step.text) is not None
        return hosts[step.host].sh(
            f"cd\n{step.text}", text=typed, online=online, timeout_s=600.0, variables=SOURCES
        )
    except AssertionError as error:
        raise AssertionError(f"{step.place}: {error}") from None


def _marked(text: str, name: str) -> Iterator[tuple[Step | None, int]]:
    """Steps, or None for an example, with the lines of their fences."""
    marks: list[tuple[int, str, str]] = []
    block: list[str] | None = None
    opened = 0
    for number, line in _lines(text):
        if block is not None:
            if line.strip() == "```":
                body = "\n".join(block).rstrip()
                for mark in marks:
                    yield _step(name, *mark, body), opened
                block, marks = None, []
            else:
                block.append(line)
        elif line.startswith("```"):
            block, opened = [], number
        elif mark := _MARK.match(line.strip()):
            assert mark[1] in _KINDS, f"{name}:{number}: {mark[1]!r} is none of {', '.join(_KINDS)}"
            marks.append((number, mark[1], mark[2]))
        else:
            assert not (marks and line.strip()), f"{name}:{number}: a fenced block must follow the mark"
    assert not marks, f"{name}: the last mark has no block"


def _step(name: str, number: int, kind: str, words: str, body: str) -> Step | None:
    place = f"{name}:{number}"
    if kind == "example":
        assert words, f"{place}: say why it is not run"
        return None
    assert "..." not in body, f"{place}: a step has real commands, without '...'"
    if kind == "carry":
        return _carry(place, words, body)
    given = words.split()
    wanted = 3 if kind == "type" else 2
    assert len(given) == wanted, f"{place}: {kind} takes HOST JOURNEY{' WHAT' if kind == 'type' else ''}"
    host, journey, *typed = given
    _known(place, host)
    if typed:
        assert typed[0] in SECRETS, f"{place}: {typed[0]!r} is none of {', '.join(SECRETS)}"
    return Step(place, kind, host, journey, body, *typed)


def _carry(place: str, words: str, body: str) -> Step:
    found = re.fullmatch(r"(\w+):(\S+) (\w+):(\S+) (\S+)", words)
    assert found, f"{place}: carry takes HOST:PATH HOST:PATH JOURNEY"
    source, path, target, to, journey = found.groups()
    _known(place, source)
    _known(place, target)
    return Step(place, "carry", source, journey, body, carried=(source, path, target, to))


def _known(place: str, host: str) -> None:
    assert host in HOSTS, f"{place}: {host!r} is none of the hosts {', '.join(HOSTS)}"


def _lines(text: str) -> Iterator[tuple[int, str]]:
    yield from enumerate(text.splitlines(), 1)
