"""One small module per command; nothing imports these."""

import os

# Threads that wait by spinning make two training processes on one machine (or its reading processes) an order of
# magnitude slower; this must be set before torch starts its threads, so it stands where every command begins.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
