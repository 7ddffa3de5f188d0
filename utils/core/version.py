"""The project's version, which exported files carry; pyproject.toml says the same."""

VERSION = "0.1.0"
