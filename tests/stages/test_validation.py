"""What learners look at after an epoch: a part of the validation pictures, the same each time."""

from dataclasses import replace

import pytest
import torch

import train_classifier
import train_distil
import train_mae
import train_vqvae
from handoff.split import open_split
from handoff.vqvae import take_indices, take_vqvae
from priors.learners import build_learner
from train_prior import grids_to_learn

KINDS = ("vqvae", "classifier", "distil", "mae", "pixelcnn")


@pytest.fixture(scope="module")
def learners(ran, machine):
    cfg = ran.cfg
    split = open_split(cfg)
    vqvae = take_vqvae(cfg, "best", split, machine.device)
    indices = take_indices(cfg, "best", split, vqvae)
    grids = grids_to_learn(split, indices, vqvae, None, False)
    return {
        "vqvae": train_vqvae.VQVAELearner(cfg.train_vqvae, split, machine, False),
        "classifier": train_classifier.ClassifierLearner(cfg.train_classifier, split, vqvae, machine, 0, False),
        "distil": train_distil.DistilLearner(cfg.train_distil, split, indices, vqvae, machine, 0, False),
        "mae": train_mae.MAELearner(cfg.train_mae, split, 4, machine, 0, False),
        "pixelcnn": build_learner(cfg.train_prior, grids, machine, 0),
    }


@pytest.mark.parametrize("kind", ["vqvae", "distil", "pixelcnn"])
@torch.no_grad()
def test_how_much_memory_there_is_makes_no_difference(learners, machine, monkeypatch, kind):
    ample = learners[kind].validate()
    monkeypatch.setattr(learners[kind], "machine", replace(machine, memory=1))
    assert learners[kind].validate() == pytest.approx(ample, rel=1e-5)


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_a_part_is_looked_at_the_same_each_time_and_all_without_a_limit(learners, kind):
    learner = learners[kind]
    learner.model.eval()
    few, everything = learner.validate(3), learner.validate()
    assert learner.validate(3) == few and few.keys() == everything.keys()
    assert few != everything and learner.validate(10**6) == everything
    assert learner.validation_passes >= 1
