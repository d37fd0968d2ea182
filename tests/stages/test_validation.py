"""What learners look at after an epoch: a part of the validation pictures, the same each time."""

from dataclasses import replace

import pytest
import torch
from masked_memory.stages.train_prior import grids_to_learn
from torch import nn

from masked_memory.handoff.split import open_split
from masked_memory.handoff.vqvae import take_indices, take_vqvae
from masked_memory.pipeline.compiling import compile_parts
from masked_memory.pipeline.machine import generator, prepare_machine
from masked_memory.rivals import train_mae
from masked_memory.rivals.priors.learners import build_learner
from masked_memory.stages import train_classifier, train_distil, train_vqvae

KINDS = ("vqvae", "classifier", "distil", "mae", "pixelcnn")


@pytest.fixture(scope="module")
def learners(ran, machine):
    cfg = ran.cfg
    split = open_split(cfg)
    vqvae = take_vqvae(cfg, "best", split, machine.device)
    indices = take_indices(cfg, "best", split, vqvae)
    grids = grids_to_learn(split, indices, vqvae, None, False)
    torch.manual_seed(0)  # whatever ran before
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


@pytest.mark.parametrize("kind", ["vqvae", "classifier", "distil"])
def test_a_compiled_step_is_the_step(learners, monkeypatch, kind):
    """The parts are traced whole, without a break; code for the processor is left out, which takes a minute."""
    learner, whole = learners[kind], nn.Module.compile
    monkeypatch.setattr(nn.Module, "compile", lambda part: whole(part, backend="eager", fullgraph=True))
    monkeypatch.setenv("CXX", "c++")
    learner.model.train()
    learner.step(torch.arange(4), generator(0))  # in which a codebook starts
    torch.manual_seed(0)
    state = {name: value.clone() for name, value in learner.model.state_dict().items()}
    plain = learner.step(torch.arange(4), generator(0))["loss"]
    learner.model.load_state_dict(state)
    torch.manual_seed(0)
    assert compile_parts(learner, True, 1, learner.machine, lambda text: None)
    try:
        compiled = learner.step(torch.arange(4), generator(0))["loss"]
    finally:
        for part in learner.compiled_parts:
            part._compiled_call_impl = None
    torch.testing.assert_close(compiled, plain)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("kind", ["vqvae", "classifier", "distil"])
def test_a_training_step_does_not_make_a_gpu_wait(ran, kind):
    """But for the first ones, in which the codebook starts and libraries choose what is fastest."""
    machine = replace(prepare_machine(ran.cfg.run.replace({"device": "cuda"})), check_every=10**6)
    split = open_split(ran.cfg)
    vqvae = take_vqvae(ran.cfg, "best", split, machine.device)
    indices = take_indices(ran.cfg, "best", split, vqvae)
    learner = {
        "vqvae": lambda: train_vqvae.VQVAELearner(ran.cfg.train_vqvae, split, machine, False),
        "classifier": lambda: train_classifier.ClassifierLearner(
            ran.cfg.train_classifier, split, vqvae, machine, 0, False
        ),
        "distil": lambda: train_distil.DistilLearner(ran.cfg.train_distil, split, indices, vqvae, machine, 0, False),
    }[kind]()
    learner.model.train()
    rows, draws = torch.arange(4), torch.Generator().manual_seed(0)
    for number in range(6):
        torch.cuda.set_sync_debug_mode("error" if number > 2 else "default")
        try:
            learner.step(rows, draws)["loss"].backward()
        finally:
            torch.cuda.set_sync_debug_mode("default")
