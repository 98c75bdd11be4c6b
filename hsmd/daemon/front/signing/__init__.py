"""One key operation: decided, recorded, carried out by a token, recorded, and answered."""
