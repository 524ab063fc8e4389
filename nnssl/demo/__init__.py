"""The demonstration: synthetic data, the real commands as child processes, a table and pictures at the end."""
