"""The stages and the models that they are about: the files at the top of the project, such as `vqvae.py`.

They keep their place there; `masked_memory.stages.vqvae` is that file, for this package and for those who import it.
When the package is installed, they lie in this folder.
"""

from masked_memory.home import HOME

__path__ = [str(HOME)]
