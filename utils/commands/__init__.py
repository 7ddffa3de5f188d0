"""The commands behind the scripts: command line, `parse_opt` and `main`, and `run` for Python."""
