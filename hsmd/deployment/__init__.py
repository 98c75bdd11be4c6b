"""Certificates on a front end: the versions that the agent writes, and what root installs of them for TLS servers."""
