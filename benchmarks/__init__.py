"""What is measured, against what; `python -m benchmarks` (or `make bench`) writes it to docs/."""
