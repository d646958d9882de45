"""OpenAI's API over the service's own nouns, for programs that use OpenAI's client (docs/openai.md)."""
