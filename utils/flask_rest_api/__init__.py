"""A small web service that finds objects in pictures sent to it."""
