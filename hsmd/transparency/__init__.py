"""What the audit log promises and how anyone checks it: records, their chain of hashes, verification.

Pure.
"""
