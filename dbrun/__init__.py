"""Run DreamBooth personalisation from a declarative YAML recipe."""

__version__ = "0.1.0"
