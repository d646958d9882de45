"""Metrics for Prometheus; no label contains an id, a tenant or a value that a caller chose."""
