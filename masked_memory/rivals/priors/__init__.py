"""The older priors over grids: PixelCNN and latent GAN."""
