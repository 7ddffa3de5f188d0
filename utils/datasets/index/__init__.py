"""From a data YAML to a verified index of images and labels."""
