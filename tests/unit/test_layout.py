"""The house rules of docs/architecture.md, read from the source: imports point one way, each library has one home."""

import ast
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCES = sorted((ROOT / "hsmd").rglob("*.py"))

PURE = ("hsmd.errors", "hsmd.algorithms", "hsmd.purposes", "hsmd.protocol", "hsmd.transparency")
"""No I/O, no clock, no logging. Each may import those before it."""
SHARED = (*PURE, "hsmd.observe", "hsmd.system", "hsmd.pkcs11")
AWAY_FROM_THE_HSM = (*SHARED, "hsmd.provider", "hsmd.client", "hsmd.agent")
"""The client wing; never the daemon's."""
NEXT_TO_THE_HSM = tuple(
    f"hsmd.daemon.{room}"
    for room in (
        "config",
        "ipc",
        "worker",
        "store",
        "audit",
        "pki",
        "front.access",
        "front.tokens",
        "front.signing",
        "front.checkpoints",
        "front.ssh",
        "front.control",
        "front.metrics",
        "backup",
        "launcher",
        "front",
    )
)
FACES = ("hsmd.cli", "hsmd.testing")

HOMES = {
    "pkcs11": (
        "hsmd.pkcs11",
        "hsmd.daemon.worker",
        "hsmd.cli.bench.raw",
    ),  # the benchmark's yardstick is the library in a bare loop
    "asn1crypto": ("hsmd.pkcs11", "hsmd.daemon.worker"),
    "sqlalchemy": ("hsmd.daemon.store",),
    "alembic": ("hsmd.daemon.store",),
    "psycopg": ("hsmd.daemon.store",),
    "asyncssh": ("hsmd.client", "hsmd.system", "hsmd.daemon.front.ssh"),
    "typer": ("hsmd.cli",),
    "rich": ("hsmd.cli",),
    "logging": ("hsmd.observe",),
    "pytest": ("hsmd.testing",),
    "prometheus_client": ("hsmd.daemon.front.metrics",),
    "pyseccomp": ("hsmd.daemon.ipc",),
}
IMPURE = {
    "asyncio",
    "socket",
    "time",
    "logging",
    "subprocess",
    "threading",
    "select",
    "random",
    "secrets",
}


def module_name(path: Path) -> str:
    """`hsmd.protocol.frames` for its file; a package's name for its `__init__`."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def inside(module: str, *rooms: str) -> bool:
    """Whether a module is one of the rooms or within one."""
    return any(module == room or module.startswith(room + ".") for room in rooms)


def imports_of(path: Path) -> Iterator[tuple[str, int, bool]]:
    """(module, line, whether it is only for the type checker) of every import of a file, those inside functions too."""
    tree = ast.parse(path.read_text(), path)
    typing_only = {
        id(child)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and ast.unparse(node.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING")
        for statement in node.body
        for child in ast.walk(statement)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, node.lineno, id(node) in typing_only
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: write imports absolutely"
            for name in node.names:
                yield f"{node.module}.{name.name}", node.lineno, id(node) in typing_only


IMPORTS = [
    (module_name(path), imported, f"{path.relative_to(ROOT)}:{line}", typing_only)
    for path in SOURCES
    for imported, line, typing_only in imports_of(path)
]
OWN_IMPORTS = [entry for entry in IMPORTS if inside(entry[1], "hsmd")]


def room_of(module: str) -> str | None:
    """The room a module belongs to."""
    rooms = (*AWAY_FROM_THE_HSM, *NEXT_TO_THE_HSM, *FACES)
    return next((room for room in rooms if inside(module, room)), None)


def test_every_module_belongs_to_a_room() -> None:
    outside = {"hsmd", "hsmd.daemon"}
    strays = [module_name(path) for path in SOURCES if room_of(module_name(path)) is None]
    assert set(strays) <= outside, f"not in the house list of this test: {sorted(set(strays) - outside)}"


@pytest.mark.parametrize(
    "order", [AWAY_FROM_THE_HSM, (*SHARED, *NEXT_TO_THE_HSM)], ids=["client wing", "daemon wing"]
)
def test_imports_point_up_the_list(order: tuple[str, ...]) -> None:
    faults = []
    for module, imported, place, _ in OWN_IMPORTS:
        here, there = room_of(module), room_of(imported)
        if here in order and there in order and order.index(there) > order.index(here):
            faults.append(f"{place}: {here} imports {there}, which stands below it")
    assert not faults, "\n".join(faults)


def test_the_client_wing_never_imports_the_daemon_wing_or_a_face() -> None:
    faults = [
        f"{place}: {module} imports {imported}"
        for module, imported, place, _ in OWN_IMPORTS
        if inside(module, *AWAY_FROM_THE_HSM) and inside(imported, "hsmd.daemon", *FACES)
    ]
    assert not faults, "\n".join(faults)


def test_the_daemon_wing_takes_nothing_from_the_client_wing() -> None:
    faults = [
        f"{place}: {module} imports {imported}"
        for module, imported, place, _ in OWN_IMPORTS
        if inside(module, "hsmd.daemon")
        and inside(imported, "hsmd.client", "hsmd.agent", "hsmd.provider", *FACES)
    ]
    assert not faults, "\n".join(faults)


def test_one_library_one_home() -> None:
    faults = [
        f"{place}: {imported} belongs to {' and '.join(HOMES[library])}"
        for module, imported, place, _ in IMPORTS
        for library in [imported.partition(".")[0]]
        if library in HOMES and not inside(module, *HOMES[library])
    ]
    assert not faults, "\n".join(faults)


def test_pure_rooms_touch_nothing() -> None:
    faults = [
        f"{place}: {module} is pure and imports {imported}"
        for module, imported, place, _ in IMPORTS
        if inside(module, *PURE) and imported.partition(".")[0] in IMPURE
    ]
    assert not faults, "\n".join(faults)


def test_every_file_says_what_it_is() -> None:
    silent = [
        str(path.relative_to(ROOT))
        for path in SOURCES
        if not (ast.get_docstring(ast.parse(path.read_text())) or "").strip()
    ]
    assert not silent, f"no module docstring: {', '.join(silent)}"


WITHOUT_DAEMON_PACKAGES = """
import importlib, pkgutil, sys

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {"pkcs11", "asn1crypto", "sqlalchemy", "alembic", "psycopg", "pytest"}:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Blocked())
seen = 0
import hsmd.provider
for wing in ("hsmd.client", "hsmd.agent", "hsmd.protocol", "hsmd.cli"):
    package = importlib.import_module(wing)
    for module in pkgutil.walk_packages(package.__path__, wing + "."):
        if not module.name.endswith("__main__") and module.name != "hsmd.cli.bench.raw":  # a program of its own
            importlib.import_module(module.name)
            seen += 1
from hsmd.cli import run
assert run(["--help"]) == 0
assert not any(name.startswith("hsmd.daemon") for name in sys.modules), "the daemon's wing was imported"
print("imported", seen)
"""


def test_a_front_end_works_without_the_daemons_packages() -> None:
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(WITHOUT_DAEMON_PACKAGES)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "imported" in done.stdout
