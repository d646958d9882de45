"""Files: training data that fine-tuning jobs name by id."""
