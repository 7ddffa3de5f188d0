"""Instance segmentation at the addresses that other programs import."""
