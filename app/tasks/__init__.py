"""Tasks: the results of adaptations."""
