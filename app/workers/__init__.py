"""Workers: who is there to tune."""
