"""Version of the project, also in pyproject.toml and in exported files."""

VERSION = "0.1.0"
