"""`python -m jrt.cli`, for where the `jrt` command is not on the path."""

from jrt.cli import main

main()
