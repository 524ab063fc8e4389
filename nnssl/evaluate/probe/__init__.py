"""Linear probes: what a frozen encoder's features say of a target, beside random encoders and chance."""
