"""Datasets: how a service would read them, without starting anything."""
