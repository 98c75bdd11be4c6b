"""A PostgreSQL for faults of the store."""

from tests.integration.store.conftest import cluster

__all__ = ["cluster"]
