"""What is measured, against what; `make bench` and `make bench-quality` write it to docs/."""
