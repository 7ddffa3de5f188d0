"""Evaluation metrics: average precision, confusion matrix, COCO."""
