"""OpenSSH public keys as users give them: exactly one key, or what the text is instead and the next step. Pure."""

from __future__ import annotations

import re

from cryptography.hazmat.primitives.serialization import load_ssh_public_key

from hsmd.cli.base.errors import CommandError, Exit

KEY_TYPE = re.compile(r"(ssh-(?:ed25519|rsa|dss)|ecdsa-sha2-nistp(?:256|384|521)|sk-[a-z0-9@.-]+)\Z")
_CERTIFICATE_TYPE = re.compile(r"[a-z0-9@.-]+-cert-v01@openssh\.com\Z")
_FORM = "give a line such as: ssh-ed25519 AAAA..."
_OTHER_FORMATS = (
    ("PRIVATE KEY-----", "is a private key; nothing was sent", "give the public half, usually the file that ends in .pub"),
    ("PuTTY-User-Key-File", "is a PuTTY private key; nothing was sent", "export the public half: puttygen FILE -L"),
    ("---- BEGIN SSH2 PUBLIC KEY", "is a public key in the format of RFC 4716", "convert it: ssh-keygen -i -f FILE"),
    ("-----BEGIN PUBLIC KEY", "is a public key in PEM", "convert it: ssh-keygen -i -m PKCS8 -f FILE"),
    ("-----BEGIN RSA PUBLIC KEY", "is a public key in PEM", "convert it: ssh-keygen -i -m PEM -f FILE"),
    ("-----BEGIN CERTIFICATE", "is an X.509 certificate", _FORM),
)  # fmt: skip


def one_key(text: str, source: str) -> str:
    """Type and base64 of the one key in `text`, without its comment; empty lines and lines with # do not count.

    Raises CommandError, which names the text as `source`.
    """
    for mark, what, advice in _OTHER_FORMATS:
        if mark in text:
            raise _refused(f"{source} {what}", advice)
    lines = [line.split() for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    if not lines:
        raise _refused(f"{source} is empty and so is not an OpenSSH public key", _FORM)
    if len(lines) > 1:
        raise _refused(
            f"{source} has {len(lines)} lines, and one public key is wanted",
            "give the line of the key you mean",
        )
    return _line(lines[0], source)


def _line(words: list[str], source: str) -> str:
    if _CERTIFICATE_TYPE.match(words[0]):
        raise _refused(
            f"{source} is an OpenSSH certificate, not a public key",
            "give the public key it was made for; certificates are accepted from a CA: hsmd client trust-user-ca",
        )
    if KEY_TYPE.match(words[0]):
        return _checked(words, source)
    found = next((at for at, word in enumerate(words) if KEY_TYPE.match(word)), 0)
    if found:
        what = "a host name" if re.match(r"[\w.\[\],:|*-]+\Z", words[0]) and _is_host(words[0]) else "options"
        raise _refused(
            f"{source} has {what} before the key, which hsmd does not apply",
            f"give the line from {words[found]} on",
        )
    raise _refused(f"{source} is not an OpenSSH public key", _FORM)


def _is_host(word: str) -> bool:
    """Whether a word before a key looks like the host of a known_hosts line, and not like an option."""
    return "." in word or word.startswith(("[", "|")) or "," in word


def _checked(words: list[str], source: str) -> str:
    if len(words) < 2:
        raise _refused(
            f"{source} has no key behind {words[0]} and so is not an OpenSSH public key",
            "copy the whole line",
        )
    line = " ".join(words[:2])
    try:
        load_ssh_public_key(line.encode())
    except Exception:
        raise _refused(
            f"{source} is not an OpenSSH public key: it is cut off or damaged", "copy the whole line"
        ) from None
    return line


def _refused(what: str, next_step: str) -> CommandError:
    return CommandError(what, next_step, Exit.USAGE)
