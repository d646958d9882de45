"""The process that tunes: it claims adaptations, runs them in one engine, and hands back what it cannot finish."""
