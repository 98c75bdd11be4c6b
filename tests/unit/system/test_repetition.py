"""Equal lines of a log: the first is logged, then fewer and fewer."""

from __future__ import annotations

from hsmd.system.repetition import LONGEST_PAUSE_S, Repetition


def test_equal_lines_are_logged_after_growing_pauses_with_their_number() -> None:
    now = [0.0]
    lines = Repetition(lambda: now[0])
    logged = []
    for second in range(3_600):
        now[0] = float(second)
        if count := lines.count("the module does not exist"):
            logged.append((second, count))
    assert logged[:6] == [(0, 1), (1, 1), (3, 2), (7, 4), (15, 8), (31, 16)]
    assert len(logged) < 16
    assert logged[-1][0] - logged[-2][0] == LONGEST_PAUSE_S
    assert sum(count for _, count in logged) == logged[-1][0] + 1


def test_another_line_is_logged_at_once_and_the_same_one_after_an_end() -> None:
    lines = Repetition(lambda: 0.0)
    assert [lines.count("a"), lines.count("a"), lines.count("b")] == [1, 0, 1]
    lines.forget()
    assert lines.count("a") == 1


def test_what_is_remembered_is_bounded() -> None:
    lines = Repetition(lambda: 0.0)
    assert all(lines.count(number) == 1 for number in range(1_000))
    assert len(lines._next) <= 64
