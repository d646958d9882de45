"""Rows to work on, and reading back what became of them."""
