"""What is counted of requests."""

from prometheus_client import Gauge, Histogram

_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})

IN_FLIGHT = Gauge("ipt_http_requests_in_flight", "Requests that are being answered, event streams among them.")
_SECONDS = Histogram(
    "ipt_http_request_duration_seconds",
    "Time until an answer began, by route pattern.",
    ["method", "route", "status"],
    buckets=(0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10),
)


def answered(method: str, route: str, status: int, seconds: float) -> None:
    """Count one request. `route` is a pattern; the method is the caller's text, so only known ones are told apart."""
    status_class = f"{status // 100}xx" if status else "none"
    _SECONDS.labels(method if method in _METHODS else "other", route, status_class).observe(seconds)
