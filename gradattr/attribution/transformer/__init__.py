"""Attention: what a transformer's tokens look at."""
