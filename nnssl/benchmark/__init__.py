"""How fast a pretraining step is on this machine, where its time goes, and which of two settings is faster."""
