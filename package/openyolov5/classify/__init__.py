"""Commands for classifiers: `from openyolov5.classify import train, val, predict`."""
