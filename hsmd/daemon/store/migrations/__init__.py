"""Alembic's environment and the revisions of the schema; run only by `Store.migrate()`."""
