"""What an audit does besides its jobs."""
