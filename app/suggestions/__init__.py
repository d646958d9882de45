"""Suggestions: which unlabelled texts to label next."""
