"""Metrics of a worker and the port that serves them, together with those of `app.queue.metrics`."""

import logging

from prometheus_client import Counter, Gauge, Histogram, start_http_server

from app.settings import Settings

log = logging.getLogger(__name__)

MODEL_LOADED = Gauge("ipt_worker_model_loaded", "Whether this worker has loaded the backbone and the subspace.")
LEASES_LOST = Counter("ipt_leases_lost_total", "Adaptations whose lease this worker lost while it ran them.")
LEASES_EXPIRED = Counter("ipt_leases_expired_total", "Adaptations that this worker took back from lost workers.")
HALVINGS = Counter("ipt_batch_halvings_total", "Batches halved because they did not fit into memory.")
_RUN_SECONDS = Histogram(
    "ipt_adaptation_run_seconds",
    "Time that this worker held an adaptation, by outcome.",
    ["outcome"],
    buckets=(1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 1800, 3600),
)
_STEPS = Counter("ipt_engine_steps_total", "Engine steps; each one advances all jobs of a batch.")
_STEP_JOBS = Histogram("ipt_engine_step_jobs", "Jobs advanced by one step.", buckets=(1, 2, 4, 8, 16, 32, 64, 128))


def count_outcome(outcome: str, seconds: float) -> None:
    """Count an adaptation whose outcome was stored, `seconds` after its claim."""
    _RUN_SECONDS.labels(outcome).observe(seconds)


def count_step(jobs: int) -> None:
    """Count one engine step."""
    _STEPS.inc()
    _STEP_JOBS.observe(jobs)


def serve(settings: Settings) -> None:
    """Serve metrics on `IPT_METRICS_PORT`, if set; only to this machine unless `IPT_OPEN_METRICS` is set."""
    if settings.metrics_port is None:
        return
    address = "0.0.0.0" if settings.open_metrics else "127.0.0.1"  # noqa: S104 - opt-in, and metrics contain no ids
    try:
        start_http_server(settings.metrics_port, address)
    except OSError as error:
        # Tuning works without metrics, and another worker on this machine may use the port.
        log.error("metrics_not_served port=%d reason=%s", settings.metrics_port, error.strerror)
