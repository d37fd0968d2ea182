"""Rivals and comparisons: other ways to complete a picture. Nothing of the core imports this."""
