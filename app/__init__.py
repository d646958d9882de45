"""The HTTP service: adaptations, tasks, predictions and subspaces over PostgreSQL."""
