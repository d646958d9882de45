"""API keys: who calls, as a tenant."""
