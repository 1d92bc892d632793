"""The command line: arguments and help in main.py, what a command does beside it."""
