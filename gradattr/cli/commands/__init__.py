"""The commands: arguments and help. What one does is imported when it is called."""
