"""Subspaces: the ones that this service has loaded."""
