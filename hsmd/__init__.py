"""hsmd: TLS private keys stay in a hardware security module; TLS servers only ask."""

__version__ = "0.1.0"
