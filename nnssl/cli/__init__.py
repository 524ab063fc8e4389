"""One small module per command; nothing imports these."""
