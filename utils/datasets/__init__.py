"""From a data YAML to batches: spec, labels, pictures, augmentation, loaders and inference sources."""
