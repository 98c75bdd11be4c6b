"""Where peers come in: SSH listener, sessions that speak the protocol, admission, dispatch of control requests."""
