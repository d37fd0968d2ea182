"""Copies of training pictures are counted."""

import numpy as np
import torch

from masked_memory.rivals.measuring.nearest import share_of_copies


def test_copies_are_counted() -> None:
    train = torch.arange(12).view(3, 4)
    assert share_of_copies(torch.cat([train[:1], train[:1] + 1]), train) == 0.5
    assert np.isclose(share_of_copies(train, train), 1)
