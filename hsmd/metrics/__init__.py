"""Metrics for Prometheus, in its text format, on an address of their own; for daemon and agent.

Other packages count in plain integers and do not know of this one. Nothing is computed before a scrape.
"""

from hsmd.metrics.endpoint import MetricsEndpoint

__all__ = ["MetricsEndpoint"]
