"""What an owner's vault writes, signs and proves: statements, proofs, answers and the life cycle of a record. Pure.

docs/vault-formats.md describes the bytes.
"""
