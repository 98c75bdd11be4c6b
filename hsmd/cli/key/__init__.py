"""`hsmd key`: the keys in the token and their catalogue."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hsmd.algorithms import KeyType
from hsmd.cli.base.commands import command, group
from hsmd.cli.base.connection import SLOW_TIMEOUT_S, Session
from hsmd.cli.base.failures import Exit, Stop
from hsmd.cli.base.names import KeyName, NewName
from hsmd.cli.base.output import fields, note, table, when
from hsmd.cli.base.paging import keys_of
from hsmd.cli.base.reading import certificate_text
from hsmd.cli.key import owner
from hsmd.protocol.messages import (
    Done,
    KeyAdopt,
    KeyCandidateList,
    KeyCandidates,
    KeyDestroy,
    KeyGenerate,
    KeyInfo,
    KeyRename,
    KeyRequest,
    KeyShow,
    PemDocument,
)

if TYPE_CHECKING:
    from rich.console import RenderableType

app = group(
    """Keys in the token.

    A key is made in the token (generate), was there before (adopt) or comes from a file on the token's own host (import). What
    it may ever be used for is fixed at that moment and kept beside it in the token."""
)

app.add_typer(owner.app, name="owner")

Purposes = Annotated[
    list[str],
    typer.Option(
        "--purpose",
        "-p",
        metavar="PURPOSE",
        help="What the key may ever be used for; may be repeated. tls-server, tls-client, tls13-server, tls12-server, "
        "tls12-rsa-premaster, sign-message, ...",
    ),
]
Token = Annotated[
    str,
    typer.Option(
        "--token", metavar="NAME", help="Which token, when the daemon has several.", show_default=False
    ),
]


@command(
    app,
    "generate",
    example="hsmd key generate www --type p-256\nhsmd key generate shop --type rsa-2048 --purpose tls-server",
)
def generate(
    session: Session,
    name: KeyName,
    key_type: Annotated[KeyType, typer.Option("--type", "-t", help="Type of the key.")] = KeyType.P256,
    purpose: Purposes = ["tls-server"],  # noqa: B006  read only
    token: Token = "",
) -> None:
    """Generate a key in the token.

    The private half never leaves the token. The purposes are the key's ceiling for ever: a grant can allow less, never
    more. A key either signs or decrypts.
    """
    request = KeyGenerate(name=name, key_type=key_type.value, purposes=purpose, token=token)
    with session.output.working(f"the token is generating a key of type {key_type.value}"):
        info = session.ask(request, KeyInfo, timeout_s=SLOW_TIMEOUT_S)
    session.output.show(info, lambda: describe(info))
    if not session.output.as_json:
        note(
            f"Next: a certificate (hsmd key csr {name} or hsmd cert self-signed {name}), "
            f"and a grant (hsmd grant add CLIENT {name})"
        )


@command(app, "candidates", example="hsmd key candidates")
def candidates(session: Session, token: Token = "") -> None:
    """List the private keys in the token that could be adopted, and what is unsafe about each.

    These are keys that something else made there. hsmd serves none of them until you adopt it.
    """
    found = session.ask(KeyCandidates(token=token), KeyCandidateList)
    rows = [(key.cka_id, key.cka_label, key.key_type or "?", ", ".join(key.unsafe)) for key in found.keys]
    session.output.show(found, lambda: table(("CKA_ID", "CKA_LABEL", "TYPE", "UNSAFE"), rows))


@command(
    app,
    "adopt",
    example="hsmd key adopt www --id 3a0f --purpose tls-server\n"
    "hsmd key adopt www --label web-2024 --purpose tls-server --certificate www.pem",
)
def adopt(
    session: Session,
    name: KeyName,
    cka_id: Annotated[str, typer.Option("--id", metavar="HEX", help="Its CKA_ID.", show_default=False)] = "",
    cka_label: Annotated[
        str, typer.Option("--label", metavar="TEXT", help="Its CKA_LABEL.", show_default=False)
    ] = "",
    certificate: Annotated[
        Path | None,
        typer.Option("--certificate", metavar="PEM", help="Gives the public half where the token has none."),
    ] = None,
    purpose: Purposes = [],  # noqa: B006  read only
    token: Token = "",
    accept_unsafe: Annotated[
        bool,
        typer.Option(
            "--accept-unsafe", help="Serve it although attributes of it are unsafe; they are named."
        ),
    ] = False,
) -> None:
    """Serve a key that is in the token already.

    Say which one by --id or --label, and with --purpose what it may ever be used for; a key that hsmd has made, imported or
    adopted before has its purposes in the token and needs none. Unsafe attributes (extractable, not sensitive, may sign and
    decrypt, ...) are named and the key is refused, unless you accept them knowingly.
    """
    if bool(cka_id) == bool(cka_label):
        raise Stop("the key must be named in exactly one way", "give --id or --label", Exit.USAGE)
    request = KeyAdopt(
        name=name,
        purposes=purpose,
        token=token,
        cka_id=cka_id.replace(":", "").lower(),
        cka_label=cka_label,
        certificate=certificate_text(certificate) if certificate else "",
        accept_unsafe=accept_unsafe,
    )
    with session.output.working("the token is looking for the key"):
        info = session.ask(request, KeyInfo, timeout_s=SLOW_TIMEOUT_S)
    session.output.show(info, lambda: describe(info))


@command(
    app,
    "import",
    example="sudo hsmd key import www private.pem --config /etc/hsmd/hsmd.toml\n"
    "hsmd key import www encrypted.pem --passphrase-file passphrase",
)
def import_pem(
    session: Session,
    name: KeyName,
    pem: Annotated[
        Path, typer.Argument(metavar="PEM", help="File with the private key.", show_default=False)
    ],
    passphrase_file: Annotated[
        Path | None,
        typer.Option("--passphrase-file", metavar="FILE", help="Holds the passphrase of an encrypted file."),
    ] = None,
    config: Annotated[
        Path,
        typer.Option(
            "--config", "-c", metavar="FILE", help="The daemon's configuration, for module and PIN."
        ),
    ] = Path("hsmd.toml"),
    purpose: Purposes = ["tls-server"],  # noqa: B006  read only
    token: Token = "",
) -> None:
    """Put a private key from a PEM file into the token.

    Run it on the token's own host, as a user who may read the daemon's configuration and the PIN: the key goes straight into
    the token and past the network; the daemon is only told to serve it. Destroy the file afterwards: a key that was in a file
    once is as safe as that file was.
    """
    from hsmd.cli.key.import_ import import_key

    with session.output.working("the token is taking the key"):
        info = import_key(session, name, pem, passphrase_file, config.absolute(), token, purpose)
    session.output.show(info, lambda: describe(info))
    if not session.output.as_json:
        note(f"Next: destroy the file, for example: shred -u {pem}")


@command(app, "list", example="hsmd key list\nhsmd key list --json | jq -r '.keys[].name'")
def list_keys(session: Session) -> None:
    """List the keys of a daemon.

    Operators and auditors see all keys, a front end sees those it has a grant on.
    """
    keys = keys_of(session)
    rows = [
        (key.name, key.key_type, _grantable(key), key.token, when(key.certificate_not_after)) for key in keys
    ]
    session.output.show(
        {"keys": keys}, lambda: table(("NAME", "TYPE", "PURPOSES", "TOKEN", "CERTIFICATE UNTIL"), rows)
    )


def _grantable(key: KeyInfo) -> str:
    """Its purposes without those that only the daemon itself has."""
    return ", ".join(purpose for purpose in key.purposes if not purpose.startswith("x509-"))


@command(app, "show", example="hsmd key show www")
def show(session: Session, name: KeyName) -> None:
    """Show one key: type, purposes, digest of the public key, certificate's end, warnings."""
    info = session.ask(KeyShow(name=name), KeyInfo)
    session.output.show(info, lambda: describe(info))


@command(
    app,
    "csr",
    example="hsmd key csr www --dns www.example.org --dns example.org > www.csr\nopenssl req -in www.csr -noout -text -verify",
)
def csr(
    session: Session,
    name: KeyName,
    dns: Annotated[list[str], typer.Option("--dns", metavar="NAME", help="DNS name; may be repeated.")] = [],  # noqa: B006
    ip: Annotated[
        list[str], typer.Option("--ip", metavar="ADDRESS", help="IP address; may be repeated.")
    ] = [],  # noqa: B006
    common_name: Annotated[
        str, typer.Option("--common-name", help="Common name of the subject.", show_default=False)
    ] = "",
    organization: Annotated[
        str, typer.Option("--organization", help="Organization.", show_default=False)
    ] = "",
) -> None:
    """Make a certificate request (PKCS#10, RFC 2986) signed by the key.

    Hand it to a certificate authority, then store what comes back with `hsmd cert import`.
    """
    request = KeyRequest(
        name=name, common_name=common_name, dns_names=dns, ip_addresses=ip, organization=organization
    )
    session.output.document("pem", session.ask(request, PemDocument).pem)


@command(app, "rename", example="hsmd key rename www www-2026")
def rename(session: Session, name: KeyName, new_name: NewName) -> None:
    """Give a key another name. Grants and certificate stay with it.

    Key files that were exported name the key as it was called then: export them again.
    """
    session.ask(KeyRename(name=name, new_name=new_name), Done)
    session.output.show({"renamed": name, "name": new_name}, lambda: f"{name} is called {new_name} now.")


@command(app, "destroy", example="hsmd key destroy old-www\nhsmd key destroy old-www --confirm old-www")
def destroy(
    session: Session,
    name: KeyName,
    confirm: Annotated[
        str,
        typer.Option(
            "--confirm", metavar="NAME", help="The name once more, instead of typing it.", show_default=False
        ),
    ] = "",
) -> None:
    """Destroy a key in the token for ever.

    There is no way back. You type the key's name once more to confirm, or give it with --confirm in a script.
    """
    if not confirm:
        session.ask(KeyShow(name=name), KeyInfo)  # nobody is asked about a key that is not there
        confirm = _ask_for(name)
    if confirm != name:
        raise Stop(
            f"{confirm!r} is not {name!r}: nothing was destroyed",
            "type the name of the key exactly",
            Exit.USAGE,
        )
    done = session.ask(KeyDestroy(name=name, confirm=confirm), Done, timeout_s=SLOW_TIMEOUT_S)
    session.output.show({"destroyed": name, **_as_dict(done)}, lambda: f"Destroyed {name}.")


def _ask_for(name: str) -> str:
    if not sys.stdin.isatty():
        raise Stop("nobody can be asked to confirm", f"add --confirm {name}", Exit.USAGE)
    return str(
        typer.prompt(f"This destroys {name} in the token for ever. Type its name to confirm", err=True)
    )


def _as_dict(done: Done) -> dict[str, bool]:
    return {"changed": done.changed}


def describe(info: KeyInfo) -> RenderableType:
    """A key for people."""
    return fields(
        [
            ("name", info.name),
            ("type", info.key_type),
            ("purposes", ", ".join(info.purposes)),
            ("token", info.token),
            ("public key", f"SHA-256 {info.digest}"),
            ("created", when(info.created_at)),
            ("certificate until", when(info.certificate_not_after) or "(no certificate yet)"),
            ("warnings", "; ".join(info.warnings)),
        ]
    )
