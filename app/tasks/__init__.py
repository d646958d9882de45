"""Tasks: what adaptations leave behind."""
