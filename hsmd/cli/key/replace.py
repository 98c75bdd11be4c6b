"""`hsmd key replace`: a new key takes over the name of a key, without a failed handshake."""

from __future__ import annotations

import ipaddress
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hsmd.cli.base.certificate_files import certificate_text
from hsmd.cli.base.commands import command
from hsmd.cli.base.connection import SLOW_TIMEOUT_S, Session
from hsmd.cli.base.errors import CommandError, Exit
from hsmd.cli.base.key_details import describe, served_table
from hsmd.cli.base.names import KeyName
from hsmd.cli.base.output import note
from hsmd.cli.base.paging import front_ends_of
from hsmd.cli.key.options import app
from hsmd.errors import NotFound
from hsmd.protocol.messages import (
    CertificateExport,
    Done,
    KeyDestroy,
    KeyInfo,
    KeyReplace,
    KeyReplaceBack,
    KeyReplaced,
    KeyReplacement,
    KeyReplaceSwitch,
    KeyRequest,
    KeyShow,
    PemDocument,
    ServedBy,
)

if TYPE_CHECKING:
    from cryptography import x509

_NAMED = 5
_SERVES = {
    "other": "serves the certificate of the other key",
    "unreported": "has reported nothing",
}


@command(
    app,
    "replace",
    example="hsmd key replace www > www.csr\n"
    "hsmd key replace www --certificate fullchain.pem\n"
    "hsmd key replace www\n"
    "hsmd key replace www --finish",
)
def replace(
    session: Session,
    name: KeyName,
    certificate: Annotated[
        Path | None,
        typer.Option(
            "--certificate",
            metavar="CHAIN",
            help="Switch to the new key, with this chain (PEM, leaf first; - for standard input).",
        ),
    ] = None,
    finish: Annotated[
        bool, typer.Option("--finish", help="Destroy the old key, once every front end serves the new one.")
    ] = False,
    abort: Annotated[
        bool,
        typer.Option(
            "--abort", help="Destroy the new key; after the switch, give the name back to the old key."
        ),
    ] = False,
    dns: Annotated[
        list[str],
        typer.Option(
            "--dns", metavar="NAME", help="DNS name for the request; default: those of the certificate."
        ),
    ] = [],  # noqa: B006  read only
    ip: Annotated[
        list[str], typer.Option("--ip", metavar="ADDRESS", help="IP address for the request; as --dns.")
    ] = [],  # noqa: B006  read only
    force: Annotated[
        bool,
        typer.Option(
            "--force",
            help="Store a chain that would be refused; finish or abort although front ends have not reported.",
        ),
    ] = False,
    confirm: Annotated[
        str,
        typer.Option(
            "--confirm",
            metavar="NAME",
            help="The name of the key that is destroyed, instead of typing it at a prompt.",
            show_default=False,
        ),
    ] = "",
) -> None:
    """Replace a key by a new one that takes over its name.

    The first call makes the new key and prints a certificate request for it, with the names of the present certificate. With
    --certificate, the new key gets the name, the grants and the readers; the old one goes on serving front ends under another
    name, until each of them has fetched the new certificate. Without options the command then shows which have. --finish
    destroys the old key. Each step can be repeated.
    """
    if sum([certificate is not None, finish, abort]) > 1:
        raise CommandError(
            "--certificate, --finish and --abort are different steps", "give one of them", Exit.USAGE
        )
    if certificate is not None:
        _switch(session, name, certificate, force=force)
        return
    present = session.ask(KeyShow(name=name), KeyInfo).replacement
    if finish:
        _finish(session, name, _switched(name, present), confirm, force=force)
    elif abort:
        _abort(session, name, present, confirm, force=force)
    elif present is not None and present.switched_at is not None and present.successor == name:
        _progress(session, name, present)
    else:
        _begin(session, name, dns, ip)


# --- the steps ---


def _begin(session: Session, name: str, dns: list[str], ip: list[str]) -> None:
    wanted = _Names((*dns,), (*ip,)) if dns or ip else _present_names(session, name)
    with session.output.working("the token is generating the new key"):
        begun = session.ask(KeyReplace(name=name), KeyReplaced, timeout_s=SLOW_TIMEOUT_S)
    new = begun.other
    then = f"hsmd key replace {name} --certificate CHAIN"
    if "x509-request" not in new.purposes:
        session.output.show(begun, lambda: describe(new))
        note(f"{new.name} signs no requests: have the CA certify its public key, then: {then}")
        return
    request = KeyRequest(
        name=new.name,
        common_name=wanted.common_name,
        organization=wanted.organization,
        dns_names=list(wanted.dns),
        ip_addresses=list(wanted.ip),
    )
    session.output.document("pem", session.ask(request, PemDocument).pem)
    note(
        f"The request is signed by the new key {new.name}. {name} is used as before.\n"
        f"Next: have a CA issue the certificate, then: {then}"
    )


def _switch(session: Session, name: str, certificate: Path, *, force: bool) -> None:
    request = KeyReplaceSwitch(name=name, chain=certificate_text(certificate), force=force)
    switched = session.ask(request, KeyReplaced)
    session.output.show(switched, lambda: describe(switched.key))
    for warning in switched.warnings:
        note(f"warning: {warning}")
    if not session.output.as_json:
        note(
            f"The old key is {switched.other.name} now, and goes on serving the front ends that use it.\n"
            f"Next: hsmd key replace {name} shows which front ends serve the new certificate"
        )


def _progress(session: Session, name: str, replacement: KeyReplacement) -> None:
    found = front_ends_of(session, name)
    waiting = [each for each in found if each.state != "current"]
    session.output.show(
        {"replacement": replacement, "front_ends": found, "waiting": len(waiting)},
        lambda: served_table(found),
    )
    if session.output.as_json:
        return
    finish = f"hsmd key replace {name} --finish destroys the old key {replacement.key}"
    if not waiting:
        note(f"{_all_serve(found)}. Next: {finish}")
    else:
        note(
            f"{_told(waiting)}. Front ends that deploy renewed certificates by themselves do so within seconds; on others:"
            f" hsmd agent export {name}, and reload the server. Then: {finish}"
        )


def _finish(session: Session, name: str, replacement: KeyReplacement, confirm: str, *, force: bool) -> None:
    waiting = [each for each in front_ends_of(session, name) if each.state != "current"]
    if waiting and not force:
        raise CommandError(
            f"handshakes may fail without the old key {replacement.key}: {_told(waiting)}",
            f"see hsmd key replace {name}, or give --force if none of them uses it",
        )
    _destroy(session, replacement.key, confirm)


def _abort(
    session: Session, name: str, replacement: KeyReplacement | None, confirm: str, *, force: bool
) -> None:
    if replacement is None:
        raise CommandError(f"{name} is not being replaced", "see: hsmd key show")
    if replacement.switched_at is not None:
        back = session.ask(KeyReplaceBack(name=replacement.successor), KeyReplaced)
        session.output.show(back, lambda: describe(back.key))
        note(
            f"{back.key.name} is the old key again; the new one is {back.other.name}, and keeps its grants until it is"
            f" destroyed: hsmd key replace {back.key.name} --abort"
        )
        return
    using = front_ends_of(session, replacement.successor)
    waiting = [each for each in front_ends_of(session, replacement.key) if each.state != "current"]
    if using and waiting and not force:
        raise CommandError(
            f"handshakes may fail without {replacement.successor}, which had the name for a while: {_told(waiting)}",
            "wait until they serve the present certificate, or give --force",
        )
    _destroy(session, replacement.successor, confirm if using else replacement.successor)


def _destroy(session: Session, name: str, confirm: str) -> None:
    if not confirm:
        if not sys.stdin.isatty():
            raise CommandError(
                "there is no terminal for the confirmation", f"add --confirm {name}", Exit.USAGE
            )
        prompt = f"This destroys {name} in the token permanently. Type its name to confirm"
        confirm = str(typer.prompt(prompt, err=True))
    if confirm != name:
        raise CommandError(
            f"{confirm!r} is not {name!r}: nothing was destroyed",
            "give the exact name of the key that is destroyed",
            Exit.USAGE,
        )
    done = session.ask(KeyDestroy(name=name, confirm=confirm), Done, timeout_s=SLOW_TIMEOUT_S)
    session.output.show({"destroyed": name, "changed": done.changed}, lambda: f"Destroyed {name}.")


# --- what they need ---


def _switched(name: str, replacement: KeyReplacement | None) -> KeyReplacement:
    if replacement is None:
        raise CommandError(f"{name} is not being replaced", f"begin with: hsmd key replace {name}")
    if replacement.switched_at is None or replacement.successor != name:
        raise CommandError(
            f"{replacement.successor} has not taken over the name {replacement.key} yet",
            f"first: hsmd key replace {replacement.key} --certificate CHAIN",
        )
    return replacement


def _all_serve(front_ends: list[ServedBy]) -> str:
    return "Every front end serves the new certificate" if front_ends else "No client has a grant on this key"


def _told(front_ends: list[ServedBy]) -> str:
    """Front ends with what each of them serves, the first few by name."""
    named = [f"{each.client} {_SERVES.get(each.state, each.state)}" for each in front_ends[:_NAMED]]
    more = len(front_ends) - _NAMED
    return ", ".join(named) + (f", and {more} more" if more > 0 else "")


@dataclass(frozen=True, slots=True)
class _Names:
    """What a certificate request asks for."""

    dns: tuple[str, ...] = ()
    ip: tuple[str, ...] = ()
    common_name: str = ""
    organization: str = ""


def _present_names(session: Session, name: str) -> _Names:
    """The names in the certificate of the present key."""
    from cryptography import x509

    try:
        pem = session.ask(CertificateExport(key=name), PemDocument).pem
    except NotFound:
        session.ask(KeyShow(name=name), KeyInfo)  # says so if there is no such key
        raise CommandError(
            f"{name} has no certificate to take the names from", "give --dns or --ip", Exit.USAGE
        ) from None
    return _names_of(x509.load_pem_x509_certificate(pem.encode()))


def _names_of(leaf: x509.Certificate) -> _Names:
    from cryptography import x509

    try:
        names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        names = x509.SubjectAlternativeName([])
    dns = tuple(names.get_values_for_type(x509.DNSName))
    ip = tuple(
        str(address)
        for address in names.get_values_for_type(x509.IPAddress)
        if isinstance(address, ipaddress.IPv4Address | ipaddress.IPv6Address)
    )
    if len(dns) + len(ip) < len(names):
        note(
            "warning: the present certificate also has names that are no DNS names or addresses: not asked for"
        )
    return _Names(
        dns,
        ip,
        _of_subject(leaf, x509.NameOID.COMMON_NAME),
        _of_subject(leaf, x509.NameOID.ORGANIZATION_NAME),
    )


def _of_subject(leaf: x509.Certificate, oid: x509.ObjectIdentifier) -> str:
    """The value in the subject if it is one and a text."""
    found = [each.value for each in leaf.subject.get_attributes_for_oid(oid)]
    return found[0] if len(found) == 1 and isinstance(found[0], str) else ""
