"""Fairness among the tenants of one process: queues that serve them in turn, and limits that they share."""
