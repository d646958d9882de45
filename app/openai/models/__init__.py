"""Models: the backbone, and the tasks that can answer."""
