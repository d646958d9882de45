"""`python -m app.cli` is `ipt`, for places where the script is not on the path."""

from app.cli import main

main()
