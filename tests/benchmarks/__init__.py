"""Benchmarks: what the engine costs, as ratios to code written by hand. No tests, and nothing passes or fails by time."""
