"""Training losses: target assignment and one module per task."""
