"""The tasks of an audit: ranks, trials, scores."""
