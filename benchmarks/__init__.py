"""One claim a file; see README.md."""
