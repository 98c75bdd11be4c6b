"""Metrics for Prometheus: the counters of `metrics.read` in its text format, on an address of their own.

Other packages count in plain integers and do not know of this one. Nothing is computed before a scrape.
"""

from hsmd.daemon.front.metrics.endpoint import MetricsEndpoint

__all__ = ["MetricsEndpoint"]
