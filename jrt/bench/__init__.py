"""Benchmarks as ratios against what a user would run otherwise; `jrt bench NAME` runs one."""
