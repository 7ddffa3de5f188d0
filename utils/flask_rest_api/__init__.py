"""A small web service that finds objects in images sent to it."""
