"""Chat completions and completions: answers of fine-tuned models."""
