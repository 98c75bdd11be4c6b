"""Access to PKCS#11 tokens with python-pkcs11: session, templates, public keys, mechanisms, errors, PIN.

Use one session in one single-threaded process, because python-pkcs11 initialises modules as single-threaded and yet releases
the GIL. `settings` and `softhsm` do not import python-pkcs11, so processes without a module may use them.
"""
