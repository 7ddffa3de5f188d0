"""Settings of the commands, their flags, and hyperparameter files."""
