"""Generations: texts that the backbone of this process writes for tasks, whole or as they come."""
