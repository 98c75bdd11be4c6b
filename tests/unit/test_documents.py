"""Documents: generated pages are up to date, links have targets, and the files that pages name exist."""

from __future__ import annotations

import ast
import dataclasses
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from hsmd.algorithms import KeyType
from hsmd.daemon.audit.refusals import REFUSALS_EVENT
from hsmd.daemon.config.settings import (
    AuditConfig,
    CertificatesConfig,
    LimitsConfig,
    ListenConfig,
    MetricsConfig,
    TokenConfig,
    UsersConfig,
)
from hsmd.daemon.front.access.rules import Rule
from hsmd.errors import PurposeMismatch
from hsmd.protocol.frames import (
    MAX_REQUEST_LENGTH,
    Capability,
    Kind,
    Welcome,
    encode,
    encode_hello,
    encode_welcome,
)
from hsmd.protocol.messages.enumerations import EVENT_KIND, OUTCOME
from hsmd.purposes import Purpose, PurposeCheck
from hsmd.transparency import discontinuity
from hsmd.transparency.records import CHECKPOINT_EVENT, GRANT_USED_EVENT, MARK_EVENT

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])


def test_the_page_of_control_requests_is_up_to_date() -> None:
    command = [sys.executable, ROOT / "scripts" / "generate-docs", "--check"]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=60, check=False, env={"PYTHONPATH": str(ROOT)}
    )
    assert done.returncode == 0, done.stderr


def test_no_two_sections_of_the_page_of_control_requests_have_the_same_link() -> None:
    found = anchors((ROOT / "docs" / "control.md").read_text())
    assert len(set(found)) == len(found)


def anchors(page: str) -> list[str]:
    """The targets of links to the headings of a page, as Markdown renderers make them; code blocks have none."""
    text = re.sub(r"^```.*?^```", "", page, flags=re.MULTILINE | re.DOTALL)
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return [re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings]


def prose(page: Path) -> Iterator[tuple[int, str]]:
    """Number and text of the lines of a page that are neither a table nor code."""
    code = False
    for number, line in enumerate(page.read_text().splitlines(), 1):
        if line.startswith("```"):
            code = not code
        elif not code and not line.startswith("|"):
            yield number, line


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_prose_ends_below_120_columns(page: Path) -> None:
    assert [(number, line) for number, line in prose(page) if len(line) >= 120] == []


UNCLEAR = re.compile(r"\b(nobody|somebody|anybody|mend(s|ed)?|for ever)\b", re.IGNORECASE)
"""Words in whose place an actor or a plain verb belongs (CONTRIBUTING.md); not names of users and members, which are code."""
CODE = re.compile(r"`[^`\n]*`|\"\w+\"")


def unclear(text: str) -> list[str]:
    return [found[0] for found in UNCLEAR.finditer(CODE.sub("", text))]


def test_documents_and_code_name_the_actor() -> None:
    files = [*PAGES, *(file for kind in ("*.py", "*.c", "*.h") for file in (ROOT / "hsmd").rglob(kind))]
    assert len(files) > 400
    assert {file.name: words for file in files if (words := unclear(file.read_text()))} == {}
    assert unclear("Nobody mends `nobody` for ever.") == ["Nobody", "mends", "for ever"]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_have_targets(page: Path) -> None:
    text = page.read_text()
    for file, _, anchor in (link.partition("#") for link in re.findall(r"\]\(([^)\s]+)\)", text)):
        if file.startswith(("http:", "https:")):
            continue
        target = page.parent / file if file else page
        assert target.exists(), f"{page.name}: {file}"
        if anchor:
            assert anchor in anchors(target.read_text()), f"{page.name}: {file}#{anchor}"


LONG = 150
"""Lines of a page from which on its sections are listed at its beginning."""


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_long_pages_begin_with_a_list_of_their_sections(page: Path) -> None:
    text = page.read_text()
    if page.name in ("CHANGELOG.md", "control.md") or len(text.splitlines()) <= LONG:
        return  # a list of releases; a table of requests
    head, *sections = re.split(r"^## (.+)$", re.sub(r"^```.*?^```", "", text, flags=re.M | re.S), flags=re.M)
    titles = [anchors(f"# {title}")[0] for title in sections[::2]]
    assert len(titles) > 2
    assert [link for link in re.findall(r"\]\(#([^)]+)\)", head) if link in titles] == titles


def test_the_architecture_page_names_every_package() -> None:
    """Packages are named by their path in `hsmd`."""
    text = (ROOT / "docs" / "architecture.md").read_text()
    packages = sorted(path.parent for path in (ROOT / "hsmd").glob("*/__init__.py"))
    packages += sorted(path.parent for path in (ROOT / "hsmd" / "daemon").rglob("__init__.py"))
    missing = [
        name
        for name in (str(package.relative_to(ROOT / "hsmd")) for package in packages)
        if name not in ("daemon", "daemon/front") and "migrations" not in name and f"`{name}/`" not in text
    ]
    assert missing == []


def test_the_architecture_page_names_files_that_exist() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text()
    roots = [
        ROOT / "hsmd",
        ROOT / "hsmd/daemon",
        ROOT / "hsmd/daemon/front",
        ROOT / "hsmd/daemon/front/ssh",
        ROOT,
    ]
    named = set(re.findall(r"`([a-z_]+/[a-z_/]+\.py)`", text))
    assert len(named) > 20
    assert [name for name in sorted(named) if not any((root / name).exists() for root in roots)] == []


def test_the_page_about_the_audit_log_lists_every_event_and_every_rule() -> None:
    page = (ROOT / "docs" / "audit.md").read_text()
    sources = [path.read_text() for path in (ROOT / "hsmd" / "daemon").rglob("*.py")]
    call = re.compile(
        r'(?:[._]audit\.event|self\.event|event_tail|_record|_note|\bend)\(\s*"([a-z]+\.[a-z-]+)"'
    )
    written = {name for source in sources for name in call.findall(source)}
    written |= {REFUSALS_EVENT, MARK_EVENT, CHECKPOINT_EVENT, GRANT_USED_EVENT, discontinuity.EVENT}
    assert {"control.unknown", "enrolment.begun", "worker.crashed", "daemon.stopped", "log.torn"} <= written
    assert {name for name in written if f"`{name}`" not in page} == set()
    assert [rule for rule in Rule if rule is not Rule.GRANTED and f"`{rule}`" not in page] == []


def test_the_page_about_events_has_a_row_for_every_kind() -> None:
    page = (ROOT / "docs" / "events.md").read_text()
    assert re.findall(r"^\| `([a-z]+\.[a-z-]+)` \|", page, re.MULTILINE) == list(EVENT_KIND.values)


def test_the_table_of_schemes_is_what_workers_check() -> None:
    page = (ROOT / "docs" / "protocol.md").read_text()
    rows = [line.split(" | ") for line in page.splitlines() if re.match(r"\| `0[468][0-9a-f]{2}`", line)]
    tls13 = {Purpose.TLS13_SERVER, Purpose.TLS13_CLIENT}
    others = {Purpose.TLS12_SERVER, Purpose.TLS12_CLIENT, Purpose.SIGN_MESSAGE}
    listed = set()
    for schemes, family, of_tls13, of_others, of_digests in rows:
        for scheme in (int(code, 16) for code in re.findall(r"`(0[0-9a-f]{3})`", schemes)):
            for key_type in KeyType:
                if not key_type.value.startswith({"RSA": "rsa", "EC": "p-", "Ed25519": "ed25519"}[family]):
                    continue
                pair = f"`{scheme:04x}` with {key_type.value.upper()}"
                if of_tls13 == "yes" or pair in of_tls13:
                    listed |= {(key_type, scheme, purpose) for purpose in tls13}
                if of_others.startswith("yes"):
                    listed |= {(key_type, scheme, purpose) for purpose in others}
                if "32, 48, 64" in of_digests:
                    listed.add((key_type, scheme, Purpose.SIGN_DIGEST))
    taken = set()
    for key_type in KeyType:
        check = PurposeCheck(key_type, b"")
        for scheme in range(1, 0x1000):
            for purpose in tls13 | others | {Purpose.SIGN_DIGEST}:
                try:
                    check.check(purpose, scheme, b"")
                except PurposeMismatch as fault:
                    if "signature scheme" in fault.text:
                        continue
                taken.add((key_type, scheme, purpose))
    assert len(rows) == 4
    assert listed == taken


def test_the_example_of_frames_is_made_so() -> None:
    page = (ROOT / "docs" / "protocol.md").read_text()
    lines = re.findall(r"^(client|daemon) ((?: [0-9a-f]+)+)$", page, re.MULTILINE)
    written = [bytes.fromhex(frame.replace(" ", "")) for _, frame in lines]
    assert written == [
        encode_hello(Capability.CONTROL),
        encode(Kind.PING, 1),
        encode_welcome(Welcome(1, Capability.CONTROL | Capability.EVENTS, MAX_REQUEST_LENGTH, 512)),
        encode(Kind.PONG, 1),
    ]


def test_the_tests_of_the_requirements_exist() -> None:
    text = (ROOT / "docs" / "requirements.md").read_text()
    named = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", text)
    rows = [line for line in text.splitlines() if re.match(r"\| [KVRE]\d", line)]
    assert rows and all("::" in row for row in rows)
    assert [(file, name) for file, name in named if f"def {name}(" not in (ROOT / file).read_text()] == []


def test_the_metric_of_operations_has_every_outcome() -> None:
    page = (ROOT / "docs" / "monitoring.md").read_text()
    row = re.search(r"^\| `hsmd_operations_total` .*$", page, re.MULTILINE)
    assert row and set(OUTCOME.values) - set(re.findall(r"`([a-z-]+)`", row[0])) == set()


def test_each_setting_is_in_the_written_file_or_on_the_page_of_settings() -> None:
    sections = (
        ListenConfig,
        TokenConfig,
        AuditConfig,
        LimitsConfig,
        MetricsConfig,
        CertificatesConfig,
        UsersConfig,
    )
    settings = {field.name for section in sections for field in dataclasses.fields(section)} | {"fresh_s"}
    written = (ROOT / "hsmd" / "cli" / "base" / "daemon_toml.py").read_text()
    in_file = set(re.findall(r"^#?([a-z_]+) = ", written, re.MULTILINE)) | {"front", "workers"}
    page = (ROOT / "docs" / "reference.md").read_text().partition("\n## Settings\n")[2].partition("\n## ")[0]
    on_page = set(re.findall(r"`([a-z_]+)`", page))
    assert {"startups", "stall_ms"} <= in_file
    assert settings - {"settings"} - in_file - on_page == set()


# --- troubleshooting by message ---

LEAST = 4
"""Characters of a piece of a message between what varies."""


def texts_of_the_source() -> str:
    """All string constants of the program; what varies in an f-string splits it."""
    found: list[str] = []
    for path in sorted((ROOT / "hsmd").rglob("*.py")):
        nodes = ast.walk(ast.parse(path.read_text()))
        found += [
            node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str)
        ]
    found += [path.read_text() for path in sorted((ROOT / "hsmd").rglob("*.c"))]
    return "\0".join(found)


def quoted_messages() -> list[str]:
    """The first cells of the tables of messages."""
    text = (ROOT / "docs" / "troubleshooting.md").read_text()
    section = text.partition("## By message\n")[2].partition("\n## ")[0]
    return re.findall(r"^\| `((?:[^`\\]|\\.)+)` \|", section, re.MULTILINE)


def pieces(message: str) -> list[str]:
    parts = (part.strip(" ;:'") for part in message.replace("\\`", "`").split("…"))
    return [part for part in parts if len(part) >= LEAST]


def test_each_quoted_message_is_one_that_the_program_has() -> None:
    source, messages = texts_of_the_source(), quoted_messages()
    assert len(messages) > 40
    assert all(pieces(message) for message in messages)
    missing = [(message, piece) for message in messages for piece in pieces(message) if piece not in source]
    assert missing == []
    assert "a message that no program has" not in source


def test_each_line_of_the_tables_of_messages_quotes_one() -> None:
    text = (ROOT / "docs" / "troubleshooting.md").read_text()
    section = text.partition("## By message\n")[2].partition("\n## ")[0]
    rows = [
        line
        for line in section.splitlines()
        if line.startswith("| ") and not line.startswith(("| message", "|---"))
    ]
    assert len(rows) == len(quoted_messages())
