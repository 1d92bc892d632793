"""Shards to and from a store, and why a reader can trust what it reads."""
