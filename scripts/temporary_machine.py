"""Machines of a tour: home directories in which `hsmd` commands are run, and whose documents are read."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

from tour_steps import HSMD, expect

COMMAND_S = 60


class Machine:
    """A machine with a home directory of its own, on which `hsmd` commands are run."""

    def __init__(self, home: Path, profile: Path | None = None) -> None:
        self.home = home
        self.environment = {**os.environ, "HOME": str(home)}
        self.environment.pop("XDG_CONFIG_HOME", None)
        self._profile = ["--profile", str(profile)] if profile else []
        home.mkdir()

    @property
    def configuration(self) -> Path:
        """Where `hsmd` keeps its files."""
        return self.home / ".config" / "hsmd"

    @property
    def identity(self) -> Path:
        """The SSH key that `hsmd enroll` has made."""
        return self.configuration / "operator_ed25519"

    def run(
        self, *arguments: str | Path, at: str = "", text: str = "", passphrase: str = ""
    ) -> subprocess.CompletedProcess[str]:
        """Run a command to its end, at this address instead of that of the profile.

        `passphrase` comes from the file descriptor whose number is put in place of the argument `FD`.
        """
        descriptor, passed = _pipe_with(passphrase)
        words = [str(descriptor) if word == "FD" else str(word) for word in arguments]
        if words[0] != "enroll":
            words += [*self._profile, *(["--daemon", at] if at else [])]
        try:
            return subprocess.run(
                [str(HSMD), *words, "--json"],
                input=text,
                capture_output=True,
                text=True,
                timeout=COMMAND_S,
                env=self.environment,
                cwd=self.home,
                pass_fds=passed,
                check=False,
            )
        finally:
            for each in passed:
                os.close(each)

    def hsmd(self, *arguments: str | Path, code: int = 0, **options: Any) -> Any:
        """The JSON document that a command prints. Raises StepFailed unless it exits with `code`."""
        done = self.run(*arguments, **options)
        words = " ".join(map(str, arguments))
        said = done.stderr.strip() or done.stdout.strip()
        expect(done.returncode == code, f"hsmd {words} exits with {done.returncode}: {said}")
        return json.loads(done.stdout or done.stderr)


def _pipe_with(passphrase: str) -> tuple[int, list[int]]:
    if not passphrase:
        return -1, []
    reader, writer = os.pipe()
    os.write(writer, passphrase.encode() + b"\n")
    os.close(writer)
    return reader, [reader]
