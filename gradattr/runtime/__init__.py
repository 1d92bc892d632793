"""Carrying out a plan: the driver, and the only code that knows Ray."""
