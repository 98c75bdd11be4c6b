"""Statements: what this daemon signs with a key in the token that signs nothing else."""
