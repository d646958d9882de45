"""Fine-tuning jobs: adaptations that OpenAI's clients create and follow."""
