"""Evaluations: reports of what a task answers right and wrong, on its own examples or on a test set."""
