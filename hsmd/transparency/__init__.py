"""The format of the audit log and its verification: records, hash chain, Merkle tree, checkpoints, discontinuities. Pure."""
