"""Whether this machine and its settings are fit for nnssl; every check says how to mend what it finds."""
