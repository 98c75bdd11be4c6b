"""A token worker: one PKCS#11 session, the PIN, and a second check of every purpose."""
