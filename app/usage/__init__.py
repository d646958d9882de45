"""Usage: hourly counts of a task's predictions."""
