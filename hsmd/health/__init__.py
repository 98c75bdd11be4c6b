"""Health: whether a handshake would work now, judged in one place for daemons and for agents. Pure.

Everything that tells it (`hsmd status`, `hsmd agent status`, /readyz, metrics, events) shows the findings that are made here, so
that no two of them can disagree.
"""
