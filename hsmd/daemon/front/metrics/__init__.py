"""Metrics for Prometheus: the numbers of `metrics.read` in its text format, on an address of their own.

Other rooms count in plain integers and do not know of this one. Nothing is computed before somebody asks.
"""

from hsmd.daemon.front.metrics.endpoint import MetricsEndpoint

__all__ = ["MetricsEndpoint"]
