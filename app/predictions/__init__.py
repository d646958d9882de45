"""Predictions: one backbone per process answers for every task."""
