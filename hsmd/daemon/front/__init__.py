"""The front process: everything on the network side of the daemon; never loads python-pkcs11, never sees a PIN."""
