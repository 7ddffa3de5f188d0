"""A web page that runs a model, and its export as a static site."""
