"""`python -m jrt` is the `jrt` command, for where that is not on the path."""

from jrt.cli import main

main()
