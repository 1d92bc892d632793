"""A model rearranged so that its gradients cost less, checked against the model itself."""
