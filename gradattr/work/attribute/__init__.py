"""The tasks of kind attribute: a shard of images in, predictions and maps out."""
