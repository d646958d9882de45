"""API keys: which tenant calls, and what the key allows."""
