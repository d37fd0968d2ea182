"""Models of rivals: the masked autoencoder, the painter."""
