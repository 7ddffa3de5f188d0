"""Data sets: index, augmentation, loaders and inference sources."""
