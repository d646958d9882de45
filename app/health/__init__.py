"""Health checks: whether the process is alive, and whether it is ready to serve."""
