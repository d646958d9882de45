"""Tenants, for their operator: what they have, a copy of it, and its deletion."""
