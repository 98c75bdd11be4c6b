"""PKI: certificate requests, self-signed certificates and what authorities issue, for keys in tokens; checks of chains."""

from hsmd.daemon.pki.certificates import self_signed_certificate
from hsmd.daemon.pki.chains import (
    CertificateFacts,
    check_authority_chain,
    check_chain,
    is_issued_by,
    is_self_signed,
    is_valid_and_of_a_ca,
    refuse_pss,
)
from hsmd.daemon.pki.requests import certificate_request
from hsmd.daemon.pki.schemes import default_scheme
from hsmd.daemon.pki.two_pass import Unsigned

__all__ = [
    "CertificateFacts",
    "Unsigned",
    "certificate_request",
    "check_authority_chain",
    "check_chain",
    "default_scheme",
    "is_issued_by",
    "is_self_signed",
    "is_valid_and_of_a_ca",
    "refuse_pss",
    "self_signed_certificate",
]
