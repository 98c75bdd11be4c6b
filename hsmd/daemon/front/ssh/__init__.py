"""The network side of the front: SSH listener, admission, connections, and the sessions of the protocol."""
