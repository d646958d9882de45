"""Embeddings: those of the backbone, and those behind the prompt of a task."""
