"""Which training examples, and which of their pixels, moved a prediction. Torch in, torch out."""
