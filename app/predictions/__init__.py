"""Predictions: the one backbone of this process answering for every task."""
