"""Studies of label efficiency and convergence: a grid of initialisations, label counts and seeds."""
