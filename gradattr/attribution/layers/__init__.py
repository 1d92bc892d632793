"""Methods that look at a layer, or at every ReLU."""
