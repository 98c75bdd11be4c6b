"""python-pkcs11 and what everyone needs of it who keeps keys in a token: session, templates, public keys, PIN.

One PKCS#11 session is one single-threaded process, because python-pkcs11 initialises modules as single-threaded and yet
releases the GIL. `settings` and `softhsm` import no python-pkcs11, so processes without a module may use them.
"""
