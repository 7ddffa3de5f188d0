"""Commands for instance segmentation: `from openyolov5.segment import train, val, predict`."""
