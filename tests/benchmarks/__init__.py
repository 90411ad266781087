"""Benchmarks: what the engine costs, as ratios to code written by hand. Nothing here passes or fails by time."""
