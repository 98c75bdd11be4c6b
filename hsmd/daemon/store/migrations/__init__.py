"""Alembic's environment and the revisions of the schema; run by `Store.migrate()`, never by hand."""
