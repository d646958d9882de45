"""Promotion: which version of a task answers."""
