"""Topology files: what is read, in whatever order it is written; and what is refused, with the place and the fix."""

from __future__ import annotations

import contextlib
import json
import random
from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given, strategies as st

from hsmd.rollover import topology_file
from hsmd.rollover.problems import MAX_FAULTS, TopologyInvalid
from hsmd.rollover.topology import MAX_EDGES, MAX_NODES, MAX_RELAYS, Node, Topology
from tests.support.rollover import as_toml, chain, identity, mesh, node, star, topology

SMALL = topology([("web", "db", True), ("cron", "db", False)], nodes={"web": node("web", "db")})
TEXT = as_toml(SMALL)


def faults(text: str) -> str:
    """The faults of a file that is refused."""
    with pytest.raises(TopologyInvalid) as refused:
        topology_file.parse(text, "fleet.toml")
    assert all(line.startswith("fleet.toml: ") for line in refused.value.text.splitlines())
    return refused.value.text


def changed(old: str, new: str, text: str = TEXT) -> str:
    """The file with one text replaced."""
    assert text.count(old) == 1
    return text.replace(old, new)


def test_a_file_and_the_canonical_form_give_the_topology_that_they_describe() -> None:
    assert topology_file.parse(TEXT, "x") == SMALL
    assert topology_file.from_document(json.loads(json.dumps(SMALL.document)), "x") == SMALL


def test_defaults_are_reached_directly_and_link_certificates() -> None:
    text = changed("link = true\n", "").replace("direct = true\nvia = []\n", "")
    text = changed("clock_skew_s = 300\ntask_s = 3600\n", "", text)
    assert topology_file.parse(text, "x") == SMALL


def test_the_digest_does_not_depend_on_the_order_of_the_file() -> None:
    shown = topology(mesh(5))
    order = list(range(len(shown.edges)))
    random.Random(5).shuffle(order)
    again = topology_file.parse(as_toml(shown, order), "x")
    assert again == shown and again.digest == shown.digest
    assert topology(mesh(5)[1:]).digest != shown.digest


def test_a_comment_of_a_key_and_the_zone_of_a_date_do_not_matter() -> None:
    other = changed(f'identity = "{identity("web")}"', f'identity = "{identity("web")} root@web"')
    other = changed("2027-06-01T00:00:00Z", "2027-06-01T02:00:00+02:00", other)
    assert topology_file.parse(other, "x").digest == SMALL.digest


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ('format = "hsmd.topology/v1"', 'format = "hsmd.topology/v2"', 'format: must be "hsmd.topology/v1"'),
        ("[authority]", "[authorty]", "authorty: is not a member here"),
        ("[authority]", "[authorty]", "authority: is missing"),
        ("ends = 2027-06-01T00:00:00Z", "ends = 2027-06-01", "authority.ends: is '2027-06-01', and must be a time"),
        ("ends = 2027-06-01T00:00:00Z", "ends = 2027-06-01T00:00:00", "must be a time, such as"),
        ("ends = 2027-06-01T00:00:00Z", "ends = 9999-12-31T23:59:59Z", "must be a time, such as"),
        ("link = true", 'link = "yes"', "authority.link: is 'yes', and must be true or false"),
        ("task_s = 3600", "task_s = 0", "schedule.task_s: is '0', and must be a whole number from 1"),
        ("task_s = 3600", "task_s = true", "schedule.task_s: is true, and must be"),
        ('[nodes."web"]', '[nodes."we b"]', "nodes.we b: is not a valid name"),
        ('[nodes."cron"]', '[nodes."corn"]', "its client cron is not a node; did you mean corn?; add [nodes.cron]"),
        ('[nodes."cron"]', '[counterparts."cron"]', "counterparts.cron.reason: is missing"),
        ('client = "cron"', 'client = "web"', "edge web -> db: is given twice; remove one of them"),
        ("mutual = true", "", "edges[1].mutual: is missing; give true or false"),
        ('via = ["db"]', 'via = ["cron"]', "nodes.web.via: there is no edge between cron and web; add the edge"),
        ('via = ["db"]', 'via = ["d-b"]', "nodes.web.via: d-b is not a node; did you mean db?"),
        ('via = ["db"]', 'via = ["web"]', "web cannot be its own relay"),
        ('via = ["db"]', 'via = ["db", "db"]', "names a relay twice"),
        ('via = ["db"]', "via = []", "names no relay, and direct is false"),
        ('via = ["db"]', "via = [1]", "nodes.web.via: is a list with 1 entries, and must be a list of at most"),
        (f'identity = "{identity("web")}"', 'identity = "ssh-rsa AAAA"', "nodes.web.identity: must be an OpenSSH"),
        (f'identity = "{identity("web")}"', f'identity = "{identity("db")}"', "is the key of db, too"),
        ('name = "Example internal CA"', 'name = "a\\u0000b"', "authority.name: is 'a\\x00b', and must be one"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused_with_its_place_and_the_fix(old: str, new: str, expected: str) -> None:
    assert expected in faults(changed(old, new))


def test_all_faults_are_listed_and_of_many_the_first_ones() -> None:
    assert len(faults(changed("mutual = true", "").replace("link = true", "link = 1")).splitlines()) == 2
    lines = faults(TEXT.replace("[[edges]]", "[[edges]]\nx = 1\n" * 1, 1) + "[[edges]]\n" * 30).splitlines()
    assert len(lines) == MAX_FAULTS + 1
    assert lines[-1].endswith("more like these")


def test_a_key_under_which_anyone_can_sign_is_refused() -> None:
    line = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAEAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"
    assert "anyone can make signatures" in faults(changed(identity("web"), line))


def test_counterparts_have_a_reason_and_relay_nothing() -> None:
    text = changed(
        f'[nodes."db"]\nidentity = "{identity("db")}"\ndirect = true\nvia = []',
        '[counterparts.db]\nreason = "r"',
    )
    assert "nodes.web.via: db is not managed and relays nothing" in faults(text)
    both = changed('[nodes."db"]', '[counterparts.db]\nreason = "r"\n[nodes."db"]')
    assert "counterparts.db: is a node, too" in faults(both)
    outside = topology([("a", "b", True)], by_hand=["a", "b"])
    assert "edge a -> b: neither end is managed" in faults(as_toml(outside))


def test_a_cycle_of_relays_is_named() -> None:
    nodes = {name: node(name, relay) for name, relay in (("a", "b"), ("b", "c"), ("c", "a"), ("d", "a"))}
    text = as_toml(
        topology(
            [*mesh(0), ("a", "b", True), ("b", "c", True), ("c", "a", True), ("d", "a", True)], nodes=nodes
        )
    )
    found = faults(text)
    assert "nodes.a.via: a -> b -> c -> a is a cycle" in found
    assert len(found.splitlines()) == 1


def test_ways_have_a_limited_number_of_relays() -> None:
    length = MAX_RELAYS + 2
    edges = chain(length)
    nodes = {f"n{at}": node(f"n{at}", f"n{at - 1}") for at in range(2, length + 1)}
    assert f"more than {MAX_RELAYS} relays on the way to n{length}" in faults(
        as_toml(topology(edges, nodes=nodes))
    )
    nodes[f"n{length}"] = node(f"n{length}")
    topology_file.parse(as_toml(topology(edges, nodes=nodes)), "x")


@pytest.mark.parametrize(
    "text",
    [
        "a." * 600 + "a = 1\n",
        "[" * 400 + "\n",
        "x = " + "[" * 900,
        "format = 1",
        'format = "hsmd.topology/v1"\nnodes = []\nedges = {}\ncounterparts = 3\nauthority = 1\nschedule = "x"',
        'format = "hsmd.topology/v1"\nnodes = {a = 1}\nedges = [1, [2]]',
        "\x00",
        "",
    ],
)
def test_hostile_files_are_refused(text: str) -> None:
    assert faults(text)


def test_a_nested_file_is_refused_whatever_the_depth() -> None:
    assert "is not TOML" in faults("x = " + "\n".join(["[" * 900] * 50))


def test_counts_are_limited_before_entries_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    edges = ", ".join(["{}"] * 50)
    rows = "\n".join([f"{edges}," for _ in range(MAX_EDGES // 50 + 1)])
    text = f'format = "hsmd.topology/v1"\nedges = [\n{rows}\n]\n'
    assert (
        f"edges: is a list with {MAX_EDGES + 50} entries, and must be a list of at most {MAX_EDGES}"
        in faults(text)
    )
    document = {**SMALL.document, "nodes": {str(at): {} for at in range(MAX_NODES + 1)}}
    with pytest.raises(TopologyInvalid, match="nodes: is a table with 10001 entries"):
        topology_file.from_document(document, "x")
    monkeypatch.setattr(topology_file, "MAX_FILE_BYTES", 10)
    assert "has more than 10 bytes" in faults(TEXT)


CANONICAL = json.dumps(SMALL.document)
VALUES = st.one_of(st.none(), st.booleans(), st.integers(), st.text(max_size=5), st.just([]), st.just({}))


def _places(value: object, path: tuple[object, ...] = ()) -> list[tuple[object, ...]]:
    found = [path] if path else []
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return found + [each for key, inner in items for each in _places(inner, (*path, key))]


@given(st.sampled_from(_places(SMALL.document)), VALUES)
def test_any_value_in_any_place_is_read_or_refused(path: tuple[object, ...], value: object) -> None:
    document = json.loads(CANONICAL)
    place = document
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    try:
        read = topology_file.from_document(document, "x")
    except TopologyInvalid:
        return
    assert topology_file.from_document(json.loads(json.dumps(read.document)), "x") == read


@given(st.binary(max_size=40), st.integers(0, len(TEXT)))
def test_mutated_files_raise_only_their_error(inserted: bytes, at: int) -> None:
    with contextlib.suppress(TopologyInvalid):
        topology_file.parse(TEXT[:at] + inserted.decode("utf-8", "replace") + TEXT[at:], "x")


def test_dates_of_certificates_are_part_of_the_topology() -> None:
    ends = datetime(2027, 5, 1, tzinfo=timezone(timedelta(hours=2)))
    nodes = {"client1": Node("client1", identity("client1"), certificate_ends=ends)}
    shown: Topology = topology(star(2), nodes=nodes)
    read = topology_file.parse(as_toml(shown), "x")
    assert read.by_name["client1"].certificate_ends == ends.astimezone(UTC)
    assert read.digest == shown.digest != topology(star(2)).digest


def test_the_limits_of_the_file_hold_the_largest_topology() -> None:
    row: Callable[[str], int] = lambda name: len(f'{{client="{name}", server="{name}", mutual=true}},\n')  # noqa: E731
    assert MAX_EDGES * row("x" * 40) + MAX_NODES * 200 < topology_file.MAX_FILE_BYTES


def test_lines_are_limited() -> None:
    assert "line 2 has more than 1000 characters" in faults("# a comment\n#" + "x" * 1_000)


def test_tables_are_counted_before_they_are_read() -> None:
    text = "".join(f"[nodes.n{at}]\n" for at in range(topology_file.MAX_TABLES + 1))
    assert f"may have {topology_file.MAX_TABLES}" in faults(text)
