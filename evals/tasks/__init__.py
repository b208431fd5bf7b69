"""Tasks, one a file; `jrt.evals.tasks.registry` finds them by name."""
