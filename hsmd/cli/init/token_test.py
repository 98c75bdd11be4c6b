"""The login with which `hsmd init` tries token and PIN before it writes anything."""

from __future__ import annotations

from hsmd.cli.base.daemon_toml import TokenChoice
from hsmd.cli.base.errors import CommandError
from hsmd.cli.base.output import Output


def log_in_once(output: Output, token: TokenChoice, user: str) -> None:
    """Log in once, as the workers will: with their lock file, so that they do not try a PIN that is refused here."""
    from hsmd.daemon.ipc.start_checks import check_token
    from hsmd.daemon.ipc.worker_settings import WorkerSettings
    from hsmd.pkcs11.settings import TokenSettings

    settings = TokenSettings(
        name=token.name,
        module=str(token.module),
        label=token.label,
        serial=token.serial,
        pin_file=str(token.pin_file),
        cleared=True,  # a person is here, and has corrected the PIN if it was refused before
    )
    with output.working("logging in to the token"):
        results = check_token(WorkerSettings(token=settings, user=user), token.environment, login=True)
    for result in results:
        if not result.ok:
            raise CommandError(f"{result.subject}: {result.text}", f"{result.fix}; nothing was written")
