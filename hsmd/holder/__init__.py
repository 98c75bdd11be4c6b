"""The owner's side of the vault: management keys, deposits, acquisitions, and the check of public keys by others.

What is here runs on the owner's machine, or in a program that checks keys, and never in the daemon. Keys in tokens need the extra
`token`; everything else works without it.
"""
