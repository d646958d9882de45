"""The worker process: claims adaptations, tunes them in one engine, and requeues what it cannot finish."""
