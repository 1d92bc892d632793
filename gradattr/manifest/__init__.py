"""What is asked: strict models of the YAML, and the way from text to a checked object."""
