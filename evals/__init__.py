"""Zero-shot recall evaluation: tasks, metrics, runner, statistics and report."""
