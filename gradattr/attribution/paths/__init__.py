"""Paths from a baseline to an input, and the baselines that unlearning finds."""
