"""Subspaces that this service has vectors of."""
