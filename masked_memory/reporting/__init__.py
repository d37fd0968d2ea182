"""What finished runs found: as one HTML file to hand on, and two runs side by side."""
