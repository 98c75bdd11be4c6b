"""The vault: keys that clients deposit in envelopes, which the daemon cannot open (docs/vault.md)."""
