"""Pictures of your own: read, completed, pasted back, written."""
