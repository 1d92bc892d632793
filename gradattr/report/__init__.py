"""Committed tables in; figures, summaries and pictures out."""
