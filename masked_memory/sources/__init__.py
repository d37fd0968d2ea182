"""Where pictures come from: folders of files, one file, or the embedded demo. Knows nothing of splits or models."""
