"""What a worker counts, and the port where it tells, beside what `app.queue.metrics` counts in every process."""

import logging

from prometheus_client import Counter, Gauge, Histogram, start_http_server

from app.settings import Settings

log = logging.getLogger(__name__)

MODEL_LOADED = Gauge("ipt_worker_model_loaded", "Whether this worker has loaded backbone and subspace.")
LEASES_LOST = Counter("ipt_leases_lost_total", "Adaptations that this worker held and found to be no longer its own.")
LEASES_EXPIRED = Counter("ipt_leases_expired_total", "Adaptations that this worker took from one that was lost.")
HALVINGS = Counter("ipt_batch_halvings_total", "Batches that were halved because they did not fit into memory.")
_RUN_SECONDS = Histogram(
    "ipt_adaptation_run_seconds",
    "Time that an adaptation was with this worker, by how it left.",
    ["outcome"],
    buckets=(1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 1800, 3600),
)
_STEPS = Counter("ipt_engine_steps_total", "Steps of the engine, each of which advances all jobs of a batch.")
_STEP_JOBS = Histogram("ipt_engine_step_jobs", "Jobs that one step advanced.", buckets=(1, 2, 4, 8, 16, 32, 64, 128))


def left(outcome: str, seconds: float) -> None:
    """Count an adaptation whose outcome is stored, `seconds` after it was claimed."""
    _RUN_SECONDS.labels(outcome).observe(seconds)


def stepped(jobs: int) -> None:
    """Count one engine step."""
    _STEPS.inc()
    _STEP_JOBS.observe(jobs)


def serve(settings: Settings) -> None:
    """Serve the metrics on `IPT_METRICS_PORT`, to this machine alone unless `IPT_OPEN_METRICS`; nothing without one."""
    if settings.metrics_port is None:
        return
    address = "0.0.0.0" if settings.open_metrics else "127.0.0.1"  # noqa: S104 - asked for, and there are no ids in it
    try:
        start_http_server(settings.metrics_port, address)
    except OSError as error:
        # Tuning does not depend on being watched; another worker of this machine may have the port.
        log.error("metrics_not_served port=%d reason=%s", settings.metrics_port, error.strerror)
