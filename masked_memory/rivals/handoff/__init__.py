"""Rivals as they are handed on: what is taken, what it was made for."""
