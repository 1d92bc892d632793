"""The tasks of kind evaluate: a shard of images in, a score of every map out; and what follows."""
