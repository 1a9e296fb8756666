"""Benchmarks: both sides of each comparison in one run, medians with their spread, losses shown like wins."""
