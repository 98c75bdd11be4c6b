"""Certificate authorities: their certificates, what they issue and what they revoke (docs/authority.md)."""
