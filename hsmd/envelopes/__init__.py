"""Wrapped keys: envelopes with a canonical JSON header, sealed by RSA-OAEP with AES-KWP or by HPKE. Pure."""
