"""Training, validation and prediction loops, the same for every task."""
