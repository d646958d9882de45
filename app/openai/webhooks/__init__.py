"""Webhooks: signed messages to a tenant's receivers when a fine-tuning job or a batch has ended."""
