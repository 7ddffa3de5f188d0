"""Networks, their blocks and their checkpoints."""
