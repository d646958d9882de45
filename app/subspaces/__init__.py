"""Subspaces that this service has loaded."""
