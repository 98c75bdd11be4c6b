"""The reader that makes the operators' documents a script, and the documents' marks."""

from __future__ import annotations

import pytest

from tests.support.hosts.documents import DOCUMENTS, PAGES, Step, all_steps, read, unmarked

PAGE = """Text.

<!-- run: key setup -->
```sh
hsmd init \\
    --config x
```

<!-- run: front install -->
<!-- run: operator install -->
```sh
apt-get install -y python3
```

<!-- type: key setup PIN -->

```sh
cat > pin
```

<!-- carry: key:/root/t front:/root/u setup -->
```sh
scp /root/t root@web1:/root/u
```

<!-- example: needs a vendor -->
```sh
vendor ...
```

```sh
hsmd status
```

```toml
a = 1
```
"""


def test_marked_blocks_are_steps_in_their_order() -> None:
    assert read(PAGE, "a.md") == [
        Step("a.md:3", "run", "key", "setup", "hsmd init \\\n    --config x"),
        Step("a.md:9", "run", "front", "install", "apt-get install -y python3"),
        Step("a.md:10", "run", "operator", "install", "apt-get install -y python3"),
        Step("a.md:15", "type", "key", "setup", "cat > pin", "PIN"),
        Step(
            "a.md:21", "carry", "key", "setup", "scp /root/t root@web1:/root/u",
            carried=("key", "/root/t", "front", "/root/u"),
        ),
    ]  # fmt: skip


def test_commands_without_a_mark_are_found() -> None:
    assert unmarked(PAGE, "a.md") == ["a.md:31"]


@pytest.mark.parametrize(
    ("mark", "body", "error"),
    [
        ("runs: key setup", "x", "a.md:1: 'runs' is none of run, type, carry, example"),
        ("run: kez setup", "x", "a.md:1: 'kez' is none of the hosts key, key2, database, front, operator"),
        ("run: key", "x", "a.md:1: run takes HOST JOURNEY"),
        ("type: key setup", "x", "a.md:1: type takes HOST JOURNEY WHAT"),
        ("type: key setup PASSWORD", "x", "a.md:1: 'PASSWORD' is none of PIN, NEWPIN, DATABASE"),
        ("run: key setup", "hsmd init ...", "a.md:1: a step has real commands"),
        ("carry: key:/a setup", "x", "a.md:1: carry takes HOST:PATH HOST:PATH JOURNEY"),
        ("carry: key:/a web:/b setup", "x", "a.md:1: 'web' is none of the hosts"),
        ("example:", "x", "a.md:1: say why it is not run"),
    ],
)
def test_wrong_marks_are_named(mark: str, body: str, error: str) -> None:
    with pytest.raises(AssertionError) as raised:
        read(f"<!-- {mark} -->\n```sh\n{body}\n```\n", "a.md")
    assert str(raised.value).startswith(error)


@pytest.mark.parametrize("text", ["<!-- run: key a -->\nText\n", "<!-- run: key a -->\n"])
def test_a_mark_without_a_block_is_refused(text: str) -> None:
    with pytest.raises(AssertionError, match="block"):
        read(text, "a.md")


def test_the_marks_of_the_documents_are_right() -> None:
    assert {step.journey for step in all_steps()} >= {"install", "setup"}
    text = (DOCUMENTS.parent / "README.md").read_text()
    assert {(step.host, step.journey) for step in read(text, "README.md")} >= {
        ("key", "use-it"),
        ("front", "use-it"),
    }


@pytest.mark.parametrize("page", ["install.md"])
def test_all_commands_of_a_page_are_run_or_say_why_not(page: str) -> None:
    assert page in PAGES
    assert unmarked((DOCUMENTS / page).read_text(), page) == []
