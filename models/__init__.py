"""Network graphs, their blocks and their checkpoints."""
