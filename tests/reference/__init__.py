"""Plain, slow restatements that the batched code must equal."""
