"""Classifications: texts answered by examples of the same request; nothing is stored."""
