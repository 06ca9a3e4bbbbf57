"""The command line: one file per command, over the same functions that a program calls."""
