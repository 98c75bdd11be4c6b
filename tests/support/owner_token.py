"""An owner's token for tests: SoftHSM with one or two tokens in one configuration, and scripts that use them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec

from hsmd.pkcs11 import softhsm
from hsmd.pkcs11.softhsm import SoftHsmToken, make_token
from tests.support.tokens import ROOT

END = "\nsys.stdout.flush(); os._exit(0)"


class OwnerToken:
    """A token with the settings file `owner.toml` in a directory of its own."""

    def __init__(self, directory: Path, label: str = "owner") -> None:
        self.directory = directory
        self.token: SoftHsmToken = make_token(directory / "token", label)
        self.settings = self._write_settings("owner.toml", self.token)

    def add_token(self, label: str) -> Path:
        """The settings file of another token that the same module shows."""
        pin_file = self.directory / f"{label}.pin"
        pin_file.touch(mode=0o600)
        pin_file.write_text("another-pin")
        added = SoftHsmToken(label, self.token.module, pin_file, self.token.configuration)
        softhsm._initialise(added, so_pin="another-so-pin", pin="another-pin")
        return self._write_settings(f"{label}.toml", added)

    def _write_settings(self, name: str, token: SoftHsmToken) -> Path:
        path = self.directory / name
        path.write_text(
            f'[token]\nmodule = "{token.module}"\nlabel = "{token.label}"\npin_file = "{token.pin_file}"\nlock_file = "lock"\n'
        )
        path.chmod(0o600)
        return path

    @property
    def environment(self) -> dict[str, str]:
        return {**os.environ, **self.token.environment, "PYTHONPATH": str(ROOT)}

    def run(self, script: str) -> Any:
        """What a script prints as JSON. It runs in the directory, in a process of its own. AssertionError if it fails."""
        done = subprocess.run(
            [sys.executable, "-c", f"import json, os, sys\n{script}{END}"],
            cwd=self.directory,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return msgspec.json.decode(done.stdout) if done.stdout else None
