"""A memory at work: what to keep, and how the rest is filled in."""
