"""The only code that knows PKCS#11: module, mechanisms, objects and worker; and the pool, the front's side of the socket pairs.

One PKCS#11 session is one single-threaded process, because python-pkcs11 initialises modules as single-threaded and yet
releases the GIL. The launcher uses `spawn`, the front `pool` and `messages`; neither imports the binding.
"""
