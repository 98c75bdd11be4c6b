"""The service in the middle: decide, record, use the token, record."""
