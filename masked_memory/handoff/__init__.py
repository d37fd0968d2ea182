"""What a stage is handed by those before it: found, loaded and checked."""
