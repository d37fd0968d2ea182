"""The interface for Python: a memory of pictures, and what it finds."""
