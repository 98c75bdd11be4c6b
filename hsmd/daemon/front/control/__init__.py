"""What operators, auditors and front ends ask besides using keys: one module per group of control requests."""
