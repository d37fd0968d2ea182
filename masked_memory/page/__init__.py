"""The web page: what it shows, what it takes, and whom it answers."""
