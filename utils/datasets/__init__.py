"""From a data YAML to batches: spec, labels, images, augmentation, loaders and inference sources."""
