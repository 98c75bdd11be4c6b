"""The layout of docs/architecture.md, checked in the source: imports point one way, each library has one home."""

from __future__ import annotations

import ast
import subprocess
import sys
import textwrap
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCES = sorted((ROOT / "hsmd").rglob("*.py"))

PURE = (
    "hsmd.errors",
    "hsmd.algorithms",
    "hsmd.purposes",
    "hsmd.protocol",
    "hsmd.transparency",
    "hsmd.envelopes",
    "hsmd.rollover",
    "hsmd.anchors",
    "hsmd.health",
)
"""No I/O, no clock, no logging."""
CLIENT_SIDE = ("hsmd.client", "hsmd.deployment", "hsmd.agent", "hsmd.holder", "hsmd.node", "hsmd.provider")
"""What runs away from the HSM."""
FRONT = (
    "hsmd.daemon.front.access",
    "hsmd.daemon.front.ledger",
    "hsmd.daemon.front.tokens",
    "hsmd.daemon.front.signing",
    "hsmd.daemon.front.authorities",
    "hsmd.daemon.front.checkpoints",
    "hsmd.daemon.front.statements",
    "hsmd.daemon.front.vault",
    "hsmd.daemon.front.ssh",
    "hsmd.daemon.front.control",
    "hsmd.daemon.front",
)
PROCESSES = ("hsmd.daemon.launcher", "hsmd.daemon.front", "hsmd.daemon.worker")
"""Each is a process of its own: the boundary between them guards the PIN."""
ORDER = (
    *PURE,
    "hsmd.log_lines",
    "hsmd.observe",
    "hsmd.system",
    "hsmd.metrics",
    "hsmd.pkcs11",
    *CLIENT_SIDE,
    "hsmd.daemon.config",
    "hsmd.daemon.store",
    "hsmd.daemon.audit",
    "hsmd.daemon.pki",
    "hsmd.daemon.ipc",
    "hsmd.daemon.worker",
    "hsmd.daemon.launcher",
    *FRONT,
    "hsmd.daemon.backup",
    "hsmd.testing",
    "hsmd.cli",
)
"""A module imports only what stands before its own package, or in it."""
ROOTS = {"hsmd", "hsmd.daemon"}
"""Packages that only hold others."""

HOMES = {
    # The loops of the benchmark are the library without anything of ours.
    "pkcs11": (
        "hsmd.pkcs11",
        "hsmd.daemon.worker",
        "hsmd.cli.bench.raw",
        "hsmd.cli.bench.scale.fill",
        "hsmd.cli.bench.scale.bare_signer",
    ),
    "asn1crypto": ("hsmd.pkcs11", "hsmd.daemon.worker"),
    "sqlalchemy": ("hsmd.daemon.store",),
    "alembic": ("hsmd.daemon.store",),
    "psycopg": ("hsmd.daemon.store",),
    "asyncssh": ("hsmd.system.ssh_library", "hsmd.system.ssh_profile"),
    "typer": ("hsmd.cli",),
    "rich": ("hsmd.cli",),
    "structlog": ("hsmd.observe",),
    "pytest": ("hsmd.testing",),
    "prometheus_client": ("hsmd.metrics",),
    "pyseccomp": ("hsmd.daemon.ipc",),
}
"""Third-party libraries and the only packages that import them."""
ASYNCSSH = "hsmd.system.ssh_library"
ASYNCSSH_INTERNALS = "hsmd.system.ssh_profile"
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


@dataclass(frozen=True, slots=True)
class Import:
    """One import statement of one name. `target` is the module, or module and name for `from module import name`."""

    module: str
    target: str
    location: str
    typing_only: bool = False


def module_name(path: Path) -> str:
    """`hsmd.protocol.frames` for its file; a package's name for its `__init__`."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def inside(module: str, *packages: str) -> bool:
    """Whether a module is one of the packages or within one."""
    return any(module == package or module.startswith(package + ".") for package in packages)


def package_of(module: str) -> str | None:
    """The entry of ORDER that a module belongs to: the longest that fits."""
    return max((package for package in ORDER if inside(module, package)), key=len, default=None)


def imports_of(path: Path) -> Iterator[Import]:
    """Every import of a file, including those inside functions."""
    tree = ast.parse(path.read_text(), path)
    module, name = module_name(path), str(path.relative_to(ROOT))
    typing_only = {
        id(child)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and ast.unparse(node.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING")
        for statement in node.body
        for child in ast.walk(statement)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            targets = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: write imports absolutely"
            targets = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        for target in targets:
            yield Import(module, target, f"{name}:{node.lineno}", id(node) in typing_only)


MODULES = {module_name(path): path for path in SOURCES}
IMPORTS = [found for path in SOURCES for found in imports_of(path)]
OWN_IMPORTS = [found for found in IMPORTS if inside(found.target, "hsmd")]


def module_of(target: str) -> str:
    """The module that an import of `target` loads: the target itself, or the module that defines the name."""
    return target if target in MODULES else target.rpartition(".")[0]


# --- the rules; each returns its violations, so that a test can show that it finds them ---


def out_of_order(imports: Iterable[Import]) -> list[str]:
    """Imports of a package that is later in ORDER than the importing one."""
    faults = []
    for each in imports:
        here, there = package_of(each.module), package_of(each.target)
        if here and there and ORDER.index(there) > ORDER.index(here):
            faults.append(f"{each.location}: {here} imports {there}, which is later in ORDER")
    return faults


def across_processes(imports: Iterable[Import]) -> list[str]:
    """Launcher, front and worker importing each other; client side and daemon importing each other."""
    faults = []
    sides = [(process, (process,)) for process in PROCESSES]
    for each in imports:
        here = next((name for name, side in sides if inside(each.module, *side)), None)
        there = next((name for name, side in sides if inside(each.target, *side)), None)
        if here and there and here != there:
            faults.append(f"{each.location}: {here} imports {there}")
        for one, other in ((CLIENT_SIDE, ("hsmd.daemon",)), (("hsmd.daemon",), CLIENT_SIDE)):
            if inside(each.module, *one) and inside(each.target, *other):
                faults.append(f"{each.location}: {each.module} imports {each.target}")
    return faults


def away_from_home(imports: Iterable[Import]) -> list[str]:
    """Imports of a third-party library outside its home."""
    return [
        f"{each.location}: {each.target} belongs to {' and '.join(HOMES[library])}"
        for each in imports
        for library in [each.target.partition(".")[0]]
        if library in HOMES and not inside(each.module, *HOMES[library])
    ]


def impure(imports: Iterable[Import]) -> list[str]:
    """Imports of I/O, clocks or logging in pure packages."""
    return [
        f"{each.location}: {each.module} is pure and imports {each.target}"
        for each in imports
        if inside(each.module, *PURE) and each.target.partition(".")[0] in IMPURE
    ]


def cycles(imports: Iterable[Import]) -> list[str]:
    """Groups of modules that import each other, directly or through others, including imports inside functions."""
    graph: dict[str, set[str]] = {}
    for each in imports:
        if not each.typing_only and module_of(each.target) != each.module:
            graph.setdefault(each.module, set()).add(module_of(each.target))
    return [" and ".join(sorted(group)) for group in strongly_connected(graph) if len(group) > 1]


def strongly_connected(graph: dict[str, set[str]]) -> list[set[str]]:
    """The strongly connected components of a graph (Tarjan 1972)."""
    found: list[set[str]] = []
    numbers: dict[str, int] = {}
    lowest: dict[str, int] = {}
    stack: list[str] = []

    def visit(node: str) -> None:
        numbers[node] = lowest[node] = len(numbers)
        stack.append(node)
        for target in sorted(graph.get(node, ())):
            if target not in numbers:
                visit(target)
                lowest[node] = min(lowest[node], lowest[target])
            elif target in stack:
                lowest[node] = min(lowest[node], numbers[target])
        if lowest[node] == numbers[node]:
            cut = stack.index(node)
            found.append(set(stack[cut:]))
            del stack[cut:]

    for node in sorted(graph):
        if node not in numbers:
            visit(node)
    return found


def asyncssh_internals(module: str, tree: ast.Module) -> list[str]:
    """Private attributes of other objects in a module that uses asyncssh.

    A class may use its own private names on any of its objects; names that the file does not define belong to asyncssh.
    """
    own = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute) and is_self(node.value)}
    own |= {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}
    own |= {
        node.target.id
        for node in ast.walk(tree)
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)
    }
    return [
        f"{module}:{node.lineno}: {ast.unparse(node)}"
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute)
        and node.attr.startswith("_")
        and not node.attr.startswith("__")
        and not is_self(node.value)
        and node.attr not in own
    ]


def is_self(node: ast.expr) -> bool:
    """Whether an expression is `self` or `cls`."""
    return isinstance(node, ast.Name) and node.id in ("self", "cls")


# --- the rules hold ---


def test_every_module_belongs_to_a_package_of_the_order() -> None:
    strays = {module for module in MODULES if package_of(module) is None}
    assert strays <= ROOTS, f"not in ORDER: {sorted(strays - ROOTS)}"


def test_every_package_of_the_order_exists() -> None:
    assert [package for package in ORDER if package not in MODULES] == []


def test_imports_point_one_way() -> None:
    assert out_of_order(OWN_IMPORTS) == []


def test_processes_do_not_import_each_other() -> None:
    assert across_processes(OWN_IMPORTS) == []


def test_no_import_cycle() -> None:
    assert cycles(OWN_IMPORTS) == []


def test_each_library_has_one_home() -> None:
    assert away_from_home(IMPORTS) == []


def test_pure_packages_import_no_io() -> None:
    assert impure(IMPORTS) == []


def test_only_the_ssh_profile_uses_internals_of_asyncssh() -> None:
    users = {each.module for each in IMPORTS if inside(each.target, ASYNCSSH)}
    assert "hsmd.client.ssh_transport" in users
    faults = [
        fault
        for module in sorted(users - {ASYNCSSH_INTERNALS})
        for fault in asyncssh_internals(module, ast.parse(MODULES[module].read_text()))
    ]
    assert faults == []


def test_every_file_has_a_module_docstring() -> None:
    undocumented = [
        str(path.relative_to(ROOT))
        for path in SOURCES
        if not (ast.get_docstring(ast.parse(path.read_text())) or "").strip()
    ]
    assert not undocumented, f"no module docstring: {', '.join(undocumented)}"


@pytest.mark.parametrize(
    ("rule", "fault"),
    [
        (out_of_order, Import("hsmd.protocol.frames", "hsmd.client.Client", "x")),
        (out_of_order, Import("hsmd.daemon.front.access.rules", "hsmd.daemon.front.ssh.session", "x")),
        (across_processes, Import("hsmd.daemon.front.app", "hsmd.daemon.launcher.app", "x")),
        (across_processes, Import("hsmd.daemon.launcher.app", "hsmd.daemon.worker.loop", "x")),
        (across_processes, Import("hsmd.daemon.front.ssh.session", "hsmd.client.endpoint", "x")),
        (away_from_home, Import("hsmd.daemon.front.app", "pkcs11.lib", "x")),
        (away_from_home, Import("hsmd.agent.session", "asyncssh", "x")),
        (impure, Import("hsmd.protocol.frames", "asyncio", "x")),
    ],
)
def test_each_rule_finds_a_violation(rule: object, fault: Import) -> None:
    assert len(rule([fault])) == 1  # type: ignore[operator]


def test_a_cycle_through_imports_inside_functions_is_found() -> None:
    pair = [
        Import("hsmd.errors", "hsmd.observe", "x"),
        Import("hsmd.observe", "hsmd.algorithms.KeyType", "y"),
        Import("hsmd.algorithms", "hsmd.errors", "z"),
    ]
    assert cycles(pair) == ["hsmd.algorithms and hsmd.errors and hsmd.observe"]
    assert cycles([*pair[:2], Import("hsmd.algorithms", "hsmd.errors", "z", typing_only=True)]) == []


def test_an_internal_of_asyncssh_is_found() -> None:
    code = "class A:\n    def f(self, conn):\n        self._mine = 1\n        other._mine\n        conn._auth.x = 2\n"
    assert asyncssh_internals("m", ast.parse(code)) == ["m:5: conn._auth"]


# --- modules that are loaded ---


@pytest.mark.parametrize("process", ["hsmd.daemon.front.app", "hsmd.daemon.launcher.app"])
def test_front_and_launcher_never_load_python_pkcs11(process: str) -> None:
    """None of their modules imports it, and the binding that opens PKCS#11 modules is not loaded.

    asyncssh imports the pure Python part if it is installed, for its own support of tokens, which is not used here.
    """
    homes = {each.module for each in IMPORTS if inside(each.target, "pkcs11")}
    assert homes
    assert reached_from(process) & homes == set()
    assert reached_from("hsmd.daemon.worker.main") & homes != set(), "the worker loads it"
    code = f"import sys, {process}; print('pkcs11._pkcs11' in sys.modules)"
    assert run_python(code) == "False\n"
    assert run_python(code.replace(process, "pkcs11._pkcs11")) == "True\n"


def reached_from(module: str) -> set[str]:
    """The modules of hsmd that a module imports, directly or through others."""
    reached: set[str] = set()
    waiting = [module]
    while waiting:
        here = waiting.pop()
        if here not in reached:
            reached.add(here)
            waiting += [
                module_of(each.target) for each in OWN_IMPORTS if each.module == here and not each.typing_only
            ]
    return reached


WITHOUT_DAEMON_PACKAGES = """
import importlib, pkgutil, sys

SEPARATE_PROGRAMS = {
    "hsmd.cli.bench.raw",
    "hsmd.cli.bench.scale.fill",
    "hsmd.cli.bench.scale.bare_generator",
    "hsmd.cli.bench.scale.bare_signer",
    "hsmd.holder.management_token",  # needs the extra `token`
    "hsmd.holder.token_keys",
}

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {"pkcs11", "asn1crypto", "sqlalchemy", "alembic", "psycopg", "pytest"}:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Blocked())
seen = 0
import hsmd.provider
for part in ("hsmd.client", "hsmd.agent", "hsmd.holder", "hsmd.protocol", "hsmd.cli"):
    package = importlib.import_module(part)
    for module in pkgutil.walk_packages(package.__path__, part + "."):
        if not module.name.endswith("__main__") and module.name not in SEPARATE_PROGRAMS:
            importlib.import_module(module.name)
            seen += 1
from hsmd.cli import run
assert run(["--help"]) == 0
assert not any(name.startswith("hsmd.daemon") for name in sys.modules), "the daemon was imported"
print("imported", seen)
"""


def test_a_front_end_works_without_the_daemons_packages() -> None:
    assert "imported" in run_python(textwrap.dedent(WITHOUT_DAEMON_PACKAGES))


def run_python(code: str) -> str:
    """Run a program in a separate Python and return its output. AssertionError with its errors if it failed."""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


# --- the layout of the tests ---


def test_no_test_imports_from_another_test() -> None:
    """Code that tests share is in tests/support, fixtures that several files use are in conftest files."""
    faults = []
    for path in sorted((ROOT / "tests").rglob("*.py")):
        for each in imports_of(path):
            name = module_of_test(each.target)
            if name.startswith("test_") or name == "conftest":
                faults.append(f"{each.location} imports {each.target}")
    assert faults == []


def module_of_test(target: str) -> str:
    """The last part of the module of tests that `target` names, or an empty string."""
    parts = target.split(".")
    if parts[0] != "tests":
        return ""
    while (
        parts and not (ROOT / Path(*parts)).with_suffix(".py").exists() and not (ROOT / Path(*parts)).is_dir()
    ):
        parts.pop()
    return parts[-1] if parts else ""


def test_no_fixture_in_support() -> None:
    support = sorted((ROOT / "tests" / "support").rglob("*.py"))
    assert support
    assert [str(path.relative_to(ROOT)) for path in support if "@pytest.fixture" in path.read_text()] == []
