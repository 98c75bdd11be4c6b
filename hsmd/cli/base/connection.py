"""The connection of a command to a daemon: profile and options, the client, and the deadline of each request."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, TypeVar, cast

from msgspec import Struct

from hsmd.cli.base import profile as profiles
from hsmd.cli.base.errors import CommandError, Exit
from hsmd.cli.base.missing_names import with_near_names
from hsmd.cli.base.output import Output
from hsmd.cli.base.statement_pins import pins_of
from hsmd.errors import ConfigurationError, HsmdError, NotFound, ProtocolError
from hsmd.protocol.messages import Event, Request

if TYPE_CHECKING:
    from hsmd.client import Client, Endpoint
    from hsmd.client.statement_keys import StatementKeyPins
    from hsmd.client.witness import Witness

DEFAULT_TIMEOUT_S = 15.0
SLOW_TIMEOUT_S = 60.0
"""For requests that generate keys: a slow token needs most of a minute for RSA-4096."""

LOG_REFUSED_ADVICE = (
    "find out why before you continue: an audit log never shrinks or changes. After a restore from backup, declare it with "
    "`hsmd audit discontinuity`; if another operator has declared it, accept that with `hsmd audit witness reset`"
)

R = TypeVar("R", bound=Struct)


class Session:
    """A command's session with a daemon; connects on the first request.

    A daemon whose audit log does not continue the one seen before is refused, unless `witnessed` is set to False first.
    """

    def __init__(
        self,
        output: Output,
        *,
        profile: Path | None = None,
        daemon: str | None = None,
        user: str | None = None,
        identity: Path | None = None,
        host_key: list[str] | None = None,
        timeout: float | None = None,
    ) -> None:
        self.output = output
        self._profile_file = profile
        self._given = {
            "daemon": daemon,
            "user": user,
            "identity": identity,
            "host_keys": tuple(host_key or ()),
        }
        self._timeout_s = timeout
        self.witnessed = True
        self._client: Client | None = None

    def __enter__(self) -> Session:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._client is not None:
            self._client.close()

    def ask(self, request: Request, answer: type[R], *, timeout_s: float = DEFAULT_TIMEOUT_S) -> R:
        """The daemon's answer to `request`. Raises HsmdError or CommandError."""
        try:
            return cast("R", self._connected().control(request, timeout_s=self.timeout_s(timeout_s)))
        except NotFound as error:
            raise with_near_names(error, self.ask) from None

    def events(self, since: str, waiting: Callable[[HsmdError], None]) -> Iterator[Event]:
        """Events from a cursor on, without end: see `Connection.events`. Raises HsmdError or CommandError."""
        return self._connected().events(since, waiting=waiting)

    def timeout_s(self, default: float = DEFAULT_TIMEOUT_S) -> float:
        """How long to wait for an answer: the option, or the default."""
        return self._timeout_s or default

    @property
    def client(self) -> Client:
        """The connection. Raises CommandError as `connect`."""
        return self._connected()

    def _connected(self) -> Client:
        if self._client is None:
            witness = self._witness() if self.witnessed else None
            self._client = connect(self.profile(), witness)
        return self._client

    def _witness(self) -> Witness | None:
        """The record of earlier checkpoints of the daemon in the profile; accepts breaks that an operator declared.

        That is this operator, or one whose key the profile names.

        None for a daemon that only the options name: another daemon may have that address later.
        """
        from hsmd.cli.base.ssh_keys import operator_keys, verifiers
        from hsmd.client.witness import Witness

        profile = self.profile()
        if profile.daemon != self._stored().daemon:
            return None
        directory = self.witness_directory
        return Witness(directory, [*operator_keys(profile.identity), *verifiers(profile.operator_keys)])

    @property
    def witness_directory(self) -> Path:
        """Where checkpoints of the daemon in the profile are remembered."""
        return self.directory / "witness"

    @property
    def directory(self) -> Path:
        """Where the profile is, and what belongs to it."""
        return self._file.absolute().parent

    def statement_pins(self) -> StatementKeyPins | None:
        """The statement keys that the profile accepts; None for a daemon that only the options name."""
        profile = self.profile()
        return pins_of(profile, self._file) if profile.daemon == self._stored().daemon else None

    def profile(self) -> profiles.Profile:
        """Profile file and options combined. Raises CommandError if daemon or identity are incomplete."""
        merged = self._stored().merged(**self._given)
        if missing := merged.missing():
            problem = "the connection settings are incomplete" if merged.daemon else "no daemon is configured"
            raise CommandError(
                f"{problem}: {', '.join(missing)} not given and not in {self._file}",
                "run `hsmd init` on the key host or `hsmd enroll`, or give the options",
                Exit.USAGE,
            )
        return merged

    @property
    def _file(self) -> Path:
        return self._profile_file or profiles.default_path()

    def _stored(self) -> profiles.Profile:
        """The profile file; an empty profile if the default one does not exist."""
        return profiles.load_if_there(self._profile_file)


def connect(profile: profiles.Profile, witness: Witness | None = None) -> Client:
    """A connected client.

    Raises CommandError if the daemon cannot be reached, has another host key than the pinned one, or shows an audit log that
    does not continue the one that `witness` has seen.
    """
    from hsmd.client import Client
    from hsmd.client.witness import LogRefused

    try:
        daemon = endpoint(profile)
        examine = partial(witness.examine, daemon.address) if witness else None
        return Client.connect(daemon, examine=examine)
    except LogRefused as error:
        raise CommandError(error.text, LOG_REFUSED_ADVICE, Exit.PROBLEMS) from error
    except ConfigurationError as error:
        raise CommandError(
            "; ".join(error.faults), "correct the profile or the option", Exit.USAGE
        ) from error
    except ProtocolError as error:
        raise CommandError(
            error.text,
            "compare the host key with the one that `hsmd init` printed; if it has changed, find out why",
        ) from error
    except HsmdError as error:
        raise CommandError(
            f"cannot connect: {error.text}",
            "check the address, that the daemon is running, and that --user has the key of --identity",
            Exit.UNREACHABLE,
        ) from error


def endpoint(profile: profiles.Profile) -> Endpoint:
    """The endpoint of a complete profile. Raises BadRequest or ConfigurationError."""
    from hsmd.client import Endpoint, parse_address

    host, port = parse_address(profile.daemon)
    return Endpoint(host, port, profile.host_keys, profile.user, Path(profile.identity or ""))
