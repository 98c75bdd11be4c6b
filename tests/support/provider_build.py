"""Build the provider's C code and the tests' C drivers by calling the compiler directly."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from pathlib import Path

SOURCES = Path(__file__).resolve().parents[2] / "hsmd" / "provider"
DRIVERS = Path(__file__).resolve().parent
PURE = ("agent", "der", "pem", "purpose", "scheme", "stream")
"""Files of the provider that do not use OpenSSL."""

STRICT = ("-std=c11", "-Wall", "-Wextra", "-Werror")
HARDENED = ("-O2", "-U_FORTIFY_SOURCE", "-D_FORTIFY_SOURCE=2", "-fstack-protector-strong")
SANITIZED = (
    "-O1",
    "-g",
    "-fsanitize=address,undefined",
    "-fno-sanitize-recover=all",
    "-fno-omit-frame-pointer",
)


def build_module(directory: Path, compiler: str = "gcc", sanitized: bool = False) -> Path:
    """Compile the provider into `directory` with the flags of CMakeLists.txt; return the module."""
    module = directory / "hsmd.so"
    # With clang, the program provides the sanitizers' run-time symbols of a shared object, so `-z defs` would fail.
    link = ["-Wl,-z,nodelete", "-Wl,-z,relro", "-Wl,-z,now"] + ([] if sanitized else ["-Wl,-z,defs"])
    sources = sorted(SOURCES.glob("*.c"))
    _compile(compiler, sanitized, ["-fPIC", "-fvisibility=hidden", "-shared"], sources, module, link)
    return module


def build_evp_driver(directory: Path, sanitized: bool = False) -> Path:
    """Compile the driver that uses the provider through libcrypto."""
    program = directory / "evp_driver"
    _compile("gcc", sanitized, [], [DRIVERS / "evp_driver.c"], program, ["-lcrypto", "-lpthread"])
    return program


def build_core_driver(directory: Path) -> Path:
    """Compile the driver of the pure files, with sanitizers."""
    program = directory / "core_driver"
    sources = [DRIVERS / "core_driver.c", *(SOURCES / f"{name}.c" for name in PURE)]
    _compile("gcc", True, [f"-I{SOURCES}"], sources, program, [])
    return program


def _compile(
    compiler: str,
    sanitized: bool,
    flags: Sequence[str],
    sources: Sequence[Path],
    output: Path,
    link: Sequence[str],
) -> None:
    output.parent.mkdir(parents=True, exist_ok=True)
    command = [compiler, *STRICT, *(SANITIZED if sanitized else HARDENED), *flags, *map(str, sources)]
    done = subprocess.run([*command, "-o", str(output), *link], capture_output=True, text=True, timeout=120)
    if done.returncode != 0:
        raise AssertionError(f"{compiler} failed:\n{done.stderr}")
