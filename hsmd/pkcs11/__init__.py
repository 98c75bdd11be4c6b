"""Access to PKCS#11 tokens with python-pkcs11: session, templates, public keys, mechanisms, errors, PIN.

The daemon's workers use it, and so do programs of people who keep keys in a token of their own (`pip install 'hsmd[token]'`;
neither the daemon nor its database is needed). Such a program names the token in a file (see `settings_file`), is asked for
the PIN at the terminal if the file says so, and gets one session:

    from pathlib import Path

    from pkcs11 import Attribute, ObjectClass

    from hsmd.pkcs11.session import open_token
    from hsmd.pkcs11.settings_file import read_token_file

    with open_token(read_token_file(Path("owner.toml"))) as token:
        for key in token.session.get_objects({Attribute.CLASS: ObjectClass.PRIVATE_KEY}):
            print(token.label, key.label)

A refused PIN is never tried twice; the error (LoginRefused) says what to do. Errors are of the classes in `hsmd.errors`.

Use one session in one single-threaded process, because python-pkcs11 initialises modules as single-threaded and yet releases
the GIL. `settings`, `settings_file` and `softhsm` do not import python-pkcs11, so processes without a module may use them.
"""
