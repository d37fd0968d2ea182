"""Every setting of every stage: a section a file, named as its stage, and how they are read."""
