"""operator.toml: the daemon an operator manages, the operator's identity, and the accepted host keys."""

from __future__ import annotations

from pathlib import Path

from hsmd.cli.base.errors import CommandError, Exit
from hsmd.cli.base.invoking_user import invoking_user
from hsmd.errors import ConfigurationError
from hsmd.system.profile_file import Profile, read

__all__ = ["PROFILE_NAME", "Profile", "default_path", "load", "load_if_there", "render"]

PROFILE_NAME = "operator.toml"


def default_path() -> Path:
    """Where `hsmd init` and `hsmd enroll` write the profile, and where all commands read it."""
    return invoking_user().configuration / PROFILE_NAME


def load(path: Path) -> Profile:
    """Read the profile in `path`; `identity` may be relative to it. Raises OSError, or CommandError for an invalid file."""
    try:
        return read(path)
    except ConfigurationError as error:
        advice = "correct the file, or name another with --profile"
        raise CommandError(f"{path}: {'; '.join(error.faults)}", advice, Exit.USAGE) from None


def load_if_there(path: Path | None) -> Profile:
    """Read the profile in `path`, or the default one; an empty profile if the default one does not exist."""
    if path is None and not default_path().exists():
        return Profile()
    return load(path or default_path())


def render(profile: Profile) -> str:
    """The text of a profile file."""
    from hsmd.cli.base.toml import quote

    return (
        "# How the hsmd commands of this user reach the daemon. Command-line options take precedence.\n"
        f"daemon = {quote(profile.daemon)}\n"
        f"user = {quote(profile.user)}\n"
        f"identity = {quote(str(profile.identity))}\n"
        "# Accepted host keys, or host CAs with the prefix `cert-authority`.\n"
        f"host_keys = {_lines(profile.host_keys)}"
        f"{_pins(profile)}"
    )


def _pins(profile: Profile) -> str:
    """What statements, and operators' notes, are verified with."""
    statement_keys = (
        f"# Keys with which the daemons sign statements.\nstatement_keys = {_lines(profile.statement_keys)}"
    )
    operator_keys = (
        "# Operators whose declarations about the audit log, and endorsements of statement keys, are accepted.\n"
        f"operator_keys = {_lines(profile.operator_keys)}"
    )
    return (statement_keys if profile.statement_keys else "") + (
        operator_keys if profile.operator_keys else ""
    )


def _lines(texts: tuple[str, ...]) -> str:
    from hsmd.cli.base.toml import quote

    return "[\n" + "".join(f"    {quote(text)},\n" for text in texts) + "]\n"
