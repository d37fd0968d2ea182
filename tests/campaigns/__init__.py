"""Campaigns: many tries to make the program fail. `python tests/torture.py` runs them whole, tests a part of each."""
