"""How good attributions are: arrays in, numbers out. No files, no Ray, no manifest."""
