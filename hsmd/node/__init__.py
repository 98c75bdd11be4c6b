"""A node of a fleet: keeps certificate, trust anchors and revocation lists of a TLS server or client (docs/node.md)."""
