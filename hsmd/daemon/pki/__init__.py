"""PKI: certificate requests and self-signed certificates for keys that sign in a token, and checks of certificate chains."""

from hsmd.daemon.pki.certificates import assemble_certificate, build_self_signed_tbs
from hsmd.daemon.pki.chains import CertificateFacts, check_chain, is_valid_and_of_a_ca, refuse_pss
from hsmd.daemon.pki.requests import assemble_request, build_request_info
from hsmd.daemon.pki.schemes import default_scheme

__all__ = [
    "CertificateFacts",
    "assemble_certificate",
    "assemble_request",
    "build_request_info",
    "build_self_signed_tbs",
    "check_chain",
    "default_scheme",
    "is_valid_and_of_a_ca",
    "refuse_pss",
]
