"""Training feature attribution: what each stage of a run of kind tfa does."""
