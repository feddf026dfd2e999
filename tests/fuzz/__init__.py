"""Looks for files that a reader cannot bear: see tests/fuzz/__main__.py."""
