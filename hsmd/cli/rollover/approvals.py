"""Approvals of plans, and the operators whose approvals count: those that are named, or those of the profile."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from hsmd.cli.base import input_files, profile as profiles
from hsmd.cli.base.errors import CommandError, Exit
from hsmd.errors import ProtocolError

if TYPE_CHECKING:
    from hsmd.rollover.approval import Approved
    from hsmd.rollover.plan import Plan
    from hsmd.transparency.note import Verifier


def check(path: Path, operators: Sequence[Verifier], plan: Plan, digest: str) -> Approved:
    """Who approved the plan, whose bytes have this digest. Raises CommandError, with exit code 4 unless the file is missing."""
    from hsmd.rollover import approval
    from hsmd.transparency.note import MAX_NOTE_BYTES

    note = input_files.content(path, MAX_NOTE_BYTES, "name the approval of the plan")
    try:
        return approval.check(note, operators, plan, digest)
    except approval.ApprovalRefused as problem:
        raise CommandError(f"{path}: {problem.text}", problem.advice, Exit.PROBLEMS) from None


def operators(named: Sequence[str], profile: Path | None) -> list[Verifier]:
    """The keys that `--operator-key` names; without one those in the profile, and the operator's own. Raises CommandError."""
    if named:
        return [_named(text) for text in named]
    path = profile or profiles.default_path()
    found = _of_profile(profiles.load_if_there(profile), path)
    if not found:
        raise CommandError(
            f"no operator's key is known: none is given, and none is in {path}",
            "give the key of the operator who may approve the plan: --operator-key LINE",
            Exit.USAGE,
        )
    return found


def _named(text: str) -> Verifier:
    from hsmd.cli.base import ssh_keys
    from hsmd.transparency.declaration import operator_verifier

    try:
        return operator_verifier(ssh_keys.line_or_file(text).line)
    except ProtocolError as problem:
        raise CommandError(f"--operator-key: {problem.text}", "give such a key", Exit.USAGE) from None


def _of_profile(profile: profiles.Profile, path: Path) -> list[Verifier]:
    from hsmd.cli.base import ssh_keys
    from hsmd.transparency.declaration import operator_verifier

    try:
        found = [operator_verifier(line) for line in profile.operator_keys]
    except ProtocolError as problem:
        raise CommandError(
            f"{path}: operator_keys: {problem.text}", "correct the file, or enrol again", Exit.USAGE
        ) from None
    return found + [key for key in ssh_keys.operator_keys(profile.identity) if key not in found]
