"""What each TLS server needs, as its Debian package runs it, to use the agent: one module per server."""
