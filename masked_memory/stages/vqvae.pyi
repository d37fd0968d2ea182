from vqvae import *
