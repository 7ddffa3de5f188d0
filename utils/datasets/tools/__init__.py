"""Commands for data sets: check, split, convert, crops, fetch, anchors."""
