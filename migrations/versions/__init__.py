"""One file per revision; each has a downgrade."""
