"""The tasks of kind patching: prompts in, effects of a language model's residual stream out."""
