"""Real bitstreams: grids, kept tokens and their positions as bytes, and back."""
