"""`hsmd rollover`: plans from topology files without a daemon; exit codes, files, and what is printed."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from hsmd.rollover import plan_document
from hsmd.rollover.plan import Order
from hsmd.rollover.planner import plan
from tests.support.cli import Run
from tests.support.rollover import as_toml, fleet, ring, star, topology

SHOWN = topology(star(2), by_hand=["client2"])


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "fleet.toml"
    path.write_text(as_toml(SHOWN))
    return path


def test_a_plan_is_printed_with_its_digest_and_its_reasons(run: Run, file: Path) -> None:
    ran = run("rollover", "plan", str(file))
    assert ran.code == 0, ran.err
    assert plan_document.digest(plan(SHOWN)) in ran.out
    assert "its clients have the new key: client1 and client2" in ran.out
    assert "bundled would be safe here" in ran.out
    assert "changed by hand" in ran.err and "client2" in ran.err


def test_with_json_it_is_the_plan_as_it_is_stored(run: Run, file: Path) -> None:
    document = json.loads(run("rollover", "plan", str(file), "--json").out)
    assert document["plan"] == json.loads(plan_document.encode(plan(SHOWN)))
    assert document["digest"] == plan_document.digest(plan(SHOWN))
    assert len(document["notes"]) == 1


def test_plan_and_picture_are_written_into_new_files(run: Run, file: Path, tmp_path: Path) -> None:
    written, picture = tmp_path / "fleet.plan", tmp_path / "fleet.svg"
    words = ("rollover", "plan", str(file), "--output", str(written), "--svg", str(picture))
    assert run(*words).code == 0
    assert plan_document.decode(written.read_bytes()) == plan(SHOWN)
    assert picture.read_text().startswith("<svg ")
    before = written.read_bytes()
    picture.unlink()
    ran = run(*words)
    assert ran.code == 1 and "exists and is not overwritten" in ran.err
    assert written.read_bytes() == before and not picture.exists()


def test_orders_can_be_chosen_one_at_a_time(run: Run, tmp_path: Path) -> None:
    file = tmp_path / "chain.toml"
    shown = topology([("a", "b", True), ("b", "c", True)])
    file.write_text(as_toml(shown))
    for option, order in (("--bundled", Order.BUNDLED), ("--mixed", Order.MIXED)):
        document = json.loads(run("rollover", "plan", str(file), option, "--json").out)
        assert document["digest"] == plan_document.digest(plan(shown, order))
    assert run("rollover", "plan", str(file), "--bundled", "--mixed").code == 2


def test_the_bundled_order_is_refused_with_the_cycle_and_the_way_out(run: Run, tmp_path: Path) -> None:
    file = tmp_path / "ring.toml"
    file.write_text(as_toml(topology(ring(3))))
    ran = run("rollover", "plan", str(file), "--bundled", "--output", str(tmp_path / "x"))
    assert (ran.code, ran.out) == (4, "")
    assert "n1 -> n2 -> n3 -> n1" in ran.err and "--mixed" in ran.err
    assert not (tmp_path / "x").exists()
    error = json.loads(run("rollover", "plan", str(file), "--bundled", "--json").out)["error"]
    assert error["exit_code"] == 4


def test_a_topology_that_is_not_valid_is_refused_with_the_name_that_was_meant(run: Run, file: Path) -> None:
    file.write_text(file.read_text().replace('server = "server"', 'server = "sever"', 1))
    ran = run("rollover", "plan", str(file))
    assert ran.code == 2
    assert "its server sever is not a node; did you mean server?" in ran.err and str(file) in ran.err
    assert run("rollover", "plan", str(file) + ".no").code == 2


def test_a_plan_is_verified_and_shown(run: Run, file: Path, tmp_path: Path) -> None:
    written = tmp_path / "fleet.plan"
    made = run("rollover", "plan", str(file), "--output", str(written))
    ran = run("rollover", "show", str(written), "--topology", str(file))
    assert (ran.code, ran.out) == (0, made.out)
    assert run("rollover", "show", str(written), "--json", "--svg", str(tmp_path / "a.svg")).code == 0
    written.write_bytes(written.read_bytes().replace(b'"A:client1",', b"", 1))
    ran = run("rollover", "show", str(written))
    assert ran.code == 4 and "C:server: does not wait for A:client1" in ran.err


def test_a_plan_for_another_topology_is_refused(run: Run, file: Path, tmp_path: Path) -> None:
    written, other = tmp_path / "fleet.plan", tmp_path / "other.toml"
    run("rollover", "plan", str(file), "--output", str(written))
    other.write_text(as_toml(topology(star(3))))
    ran = run("rollover", "show", str(written), "--topology", str(other))
    assert ran.code == 4 and f"another topology than {other}" in ran.err


def test_a_large_fleet_is_listed_in_groups_unless_all_is_asked_for(run: Run, tmp_path: Path) -> None:
    file = tmp_path / "fleet.toml"
    file.write_text(as_toml(topology(fleet(100, 4, 2))))
    ran = run("rollover", "plan", str(file))
    assert "web0000 +99" in ran.out and len(ran.out.splitlines()) < 40
    assert len(run("rollover", "plan", str(file), "--all").out.splitlines()) > 300


def test_names_in_a_file_print_no_control_characters(run: Run, file: Path) -> None:
    file.write_text(file.read_text().replace("client1", "\\u001b[2J"))
    ran = run("rollover", "plan", str(file))
    assert ran.code == 2 and "\x1b" not in ran.err


def test_nothing_is_needed_but_the_file(run: Run, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/var/empty")
    assert run("rollover", "plan", str(file)).code == 0
    assert os.environ["HOME"] == "/var/empty"


def test_the_example_of_the_document_gives_what_it_shows(run: Run, tmp_path: Path) -> None:
    text = (Path(__file__).parents[3] / "docs" / "rollover.md").read_text()
    file = tmp_path / "fleet.toml"
    blocks = text.split("```")[1::2]
    file.write_text(next(block for block in blocks if block.startswith("toml\n")).removeprefix("toml\n"))
    shown = next(block for block in blocks if block.startswith("\nSTAGE")).removeprefix("\n")
    ran = run("rollover", "plan", str(file))
    assert ran.code == 0, ran.err
    printed = [line.split() for line in ran.out.splitlines()]
    assert len(shown.splitlines()) == 6
    assert [line for line in shown.splitlines() if line.split() not in printed] == []
    digest = next(words[1] for words in printed if words[:1] == ["digest"])
    assert f"\nplan {digest}\n" in text
