"""Examples: what a version of a task was tuned on, and changes to it."""
