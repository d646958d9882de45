"""What one tenant's abuse of the service costs another tenant."""
