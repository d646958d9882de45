"""The service in numbers, for Prometheus; no label ever holds an id, a tenant, or anything that a caller wrote."""
