"""The networks besides the VQ-VAE: DistilBERT over codes, classifier, what conditions them."""
