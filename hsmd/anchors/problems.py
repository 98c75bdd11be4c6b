"""Errors of forms, and of updates that a node does not take."""

from __future__ import annotations

from hsmd.errors import ErrorCode, HsmdError


class CertificatesInvalid(HsmdError):
    """Bytes are not in the form that they should be in; the text names the certificate by its number, and the fix."""

    code = ErrorCode.BAD_REQUEST


class UpdateRefused(HsmdError):
    """An update is well formed, but gives no new trust anchor; the text names the certificate, and what is wrong with it."""

    code = ErrorCode.BAD_REQUEST
