"""Read, resize and draw images."""
