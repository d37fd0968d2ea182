"""Comparisons: rivals on the same masks, priors, bits, image formats, seeds."""
