"""Plain, slow reference implementations that the batched code must equal."""
