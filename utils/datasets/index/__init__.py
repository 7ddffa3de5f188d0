"""Data YAML files and the verified index of images and labels that they describe."""
