"""Prometheus metrics of HTTP requests."""

from prometheus_client import Gauge, Histogram

_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})

IN_FLIGHT = Gauge("ipt_http_requests_in_flight", "Requests in progress, including event streams.")
_SECONDS = Histogram(
    "ipt_http_request_duration_seconds",
    "Time until the response started, by route pattern.",
    ["method", "route", "status"],
    buckets=(0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10),
)


def observe_request(method: str, route: str, status: int, seconds: float) -> None:
    """Count one request. `route` is a pattern; the caller chooses the method, so unknown methods share a label."""
    status_class = f"{status // 100}xx" if status else "none"
    _SECONDS.labels(method if method in _METHODS else "other", route, status_class).observe(seconds)
