"""The owner's side of one command: the management key, opened; the connection; and what was seen of statements."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hsmd.cli.base import profile as profiles
from hsmd.cli.base.connection import DEFAULT_TIMEOUT_S, Session
from hsmd.cli.base.errors import CommandError, Exit
from hsmd.cli.base.paging import management_keys_of
from hsmd.cli.vault import passphrases
from hsmd.cli.vault.problems import explained
from hsmd.errors import HsmdError
from hsmd.system import process

if TYPE_CHECKING:
    from hsmd.holder.acquisitions import Acquired
    from hsmd.holder.management_files import InToken, KeyFile
    from hsmd.holder.management_keys import ManagementKey
    from hsmd.holder.proving import Prover
    from hsmd.holder.seen import Seen
    from hsmd.protocol.messages import Request

KEY_NAME = "management-key"
SEEN_NAME = "vault-seen"


def default_key_file() -> Path:
    """Where `hsmd vault keygen` writes a management key."""
    return profiles.default_path().parent / KEY_NAME


class Connection:
    """The connection of a session as the owner's side uses it; `--timeout` holds for each of its requests."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def control(self, request: Request, *, timeout_s: float = DEFAULT_TIMEOUT_S) -> Any:
        """The result of a request. Raises HsmdError or CommandError."""
        return self._session.client.control(request, timeout_s=self._session.timeout_s(timeout_s))

    @property
    def channel_binding(self) -> bytes:
        """What names the connection."""
        return self._session.client.channel_binding


class Tokens:
    """Tokens that a command has opened, each once; they are closed with the command."""

    def __init__(self, undo: ExitStack) -> None:
        self._undo = undo
        self._opened: dict[Path, Any] = {}

    def open(self, settings: Path) -> Any:
        """The token that a file names, logged in. Raises HsmdError, ModuleNotFoundError without the extra `token`."""
        from hsmd.pkcs11.session import open_token
        from hsmd.pkcs11.settings_file import read_token_file

        path = settings.resolve()
        if path not in self._opened:
            self._opened[path] = self._undo.enter_context(open_token(read_token_file(path, read_write=True)))
        return self._opened[path]


@dataclass
class Owner:
    """What a command with a management key works with."""

    session: Session
    prover: Prover
    seen: Seen
    tokens: Tokens
    management_file: Path
    in_token: InToken | None = field(default=None)
    former: ManagementKey | None = field(default=None)
    """The management key that is being replaced, if it was named."""

    @property
    def key(self) -> ManagementKey:
        """The management key."""
        return self.prover.key

    def opener(self, acquired: Acquired) -> ManagementKey:
        """The management key that opens what was acquired."""
        from hsmd.holder.acquisitions import opener

        return opener(acquired.statement, self.key, self.former)


@contextmanager
def management_key(
    path: Path, passphrase_fd: int | None, tokens: Tokens, *, user: str = ""
) -> Iterator[tuple[ManagementKey, KeyFile]]:
    """The management key of a file, opened: its passphrase or PIN is asked for. `user`: whose it has to be.

    Raises CommandError or HsmdError.
    """
    from hsmd.holder import management_files

    protect()
    file, statement = management_files.read(path)
    if user and statement.owner != user:
        raise CommandError(
            f"the management key in {path} is that of {statement.owner}, and you log in as {user}",
            "name your own with --management-key, or log in with --user and --identity",
            Exit.USAGE,
        )
    if file.token is not None:
        from hsmd.holder.management_token import TokenManagementKey

        token = tokens.open(Path(file.token.settings))
        yield TokenManagementKey(file.signed, file.envelope_suite, file.token, token), file
        return
    passphrase = passphrases.known(f"Passphrase of the management key in {path}: ", passphrase_fd)
    yield management_files.open_key(file, passphrase), file


@contextmanager
def owner(
    session: Session,
    key_file: Path | None,
    passphrase_fd: int | None = None,
    *,
    opened: bool = False,
    former: tuple[Path | None, int | None] = (None, None),
) -> Iterator[Owner]:
    """Everything that a command needs which uses the management key; its errors come with advice.

    `former`: file of the management key that is being replaced, and the descriptor of its passphrase.
    """
    from hsmd.holder.proving import Patient, Prover

    path = key_file or session.directory / KEY_NAME
    with ExitStack() as undo, explained(lambda: _not_active(session, path)):
        tokens = Tokens(undo)
        key, file = undo.enter_context(
            management_key(path, passphrase_fd, tokens, user=session.profile().user)
        )
        before, (old_path, old_passphrase_fd) = None, former
        if old_path is not None:
            before, _ = undo.enter_context(
                management_key(old_path, old_passphrase_fd, tokens, user=session.profile().user)
            )
        prover = Prover(Patient(Connection(session)), key, opened=opened)
        yield Owner(session, prover, seen_of(session), tokens, path, file.token, before)


def _not_active(session: Session, path: Path) -> CommandError | None:
    """What is wrong with the management key in a file; None if it is the active one, or the daemon does not say."""
    from hsmd.holder import management_files

    try:
        _, statement = management_files.read(path)
        listed = management_keys_of(session)
    except (HsmdError, CommandError, OSError):
        return None
    active = next((key for key in listed if key.state == "active"), None)
    state = next((key.state for key in listed if key.fingerprint == statement.fingerprint), "")
    if state == "active":
        return None
    if state == "pending":
        return CommandError(
            f"no operator has confirmed the management key in {path} yet",
            f"an operator compares the fingerprint with yours, and runs: hsmd vault confirm {statement.owner} "
            f"{statement.fingerprint}",
        )
    if not state and active is None:
        return CommandError(
            f"the management key in {path} is not registered", "register it: hsmd vault register"
        )
    use = "name the file of the active one with --management-key; `hsmd vault keys` lists them"
    if not state:
        return CommandError(f"the daemon does not know the management key in {path}", use)
    if state == "replaced":
        use = (
            "name the file of the active one with --management-key; a key that is not wrapped anew yet is taken out with this "
            "one as --old-management-key, too"
        )
    return CommandError(f"the management key in {path} is {state}, and proves nothing any more", use)


def seen_of(session: Session) -> Seen:
    """The memory of statements beside the profile."""
    from hsmd.holder.seen import Seen

    return Seen(session.directory / SEEN_NAME)


def protect() -> None:
    """No core dumps of this process, and no reading of its memory by others of the user. Raises CommandError."""
    try:
        process.harden()
    except OSError as error:
        raise CommandError(
            f"this process cannot be protected: {error.strerror}", "report it with --debug"
        ) from None
