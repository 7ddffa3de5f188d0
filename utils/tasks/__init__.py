"""What differs between detection, segmentation and classification, one object per task."""
