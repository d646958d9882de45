"""The queue of adaptations in PostgreSQL: turns of tenants, claims, leases, live workers and wake-up messages."""
