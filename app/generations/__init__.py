"""Generations: texts generated for tasks, as a whole or as a stream."""
