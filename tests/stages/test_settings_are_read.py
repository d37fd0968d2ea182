"""Every setting is read by something."""

import torch

from masked_memory.models.distilbert import load_distilbert
from masked_memory.own_picture.completing import request_of
from masked_memory.settings.common import DataSection, RunSection
from masked_memory.settings.reconstruct_masked import OwnPicture, ReconstructMaskedSection
from masked_memory.settings.train_classifier import TrainClassifierSection
from masked_memory.settings.train_distil import TrainDistilSection
from masked_memory.settings.train_vqvae import TrainVQVAESection
from masked_memory.settings.training import Tune
from masked_memory.settings.vqvae_reconstruction import VQVAEReconstructionSection
from masked_memory.stages import reconstruct_masked


def test_every_setting_is_read_by_something(ran):
    """By the stages on the data; those of an own picture by reconstruct_masked with one."""
    sections = (
        RunSection, DataSection, TrainVQVAESection, VQVAEReconstructionSection,
        TrainClassifierSection, TrainDistilSection, ReconstructMaskedSection, Tune,
    )  # fmt: skip
    fields = {(section.__name__, name) for section in sections for name in section.model_fields}
    elsewhere = {  # read on ways that these runs did not take, each covered by a test of its own
        ("RunSection", "modules"),  # before there are settings; test_interface: a module that the settings name
        ("DataSection", "download_dir"),  # test_data_split: imagenette offline
        ("DataSection", "given_split"),  # test_data_split: given split
        ("DataSection", "skip_broken"),  # test_data_split: skip broken
        ("TrainDistilSection", "label_drop"),  # test_a_class_that_is_told_with_guidance_is_recalled
    }
    assert fields - ran.seen - elsewhere == set()
    own = {("OwnPicture", name) for name in OwnPicture.model_fields}
    assert own - ran.seen_with_image == set()
    assert len(fields) > 100 and own & ran.seen == {("OwnPicture", name) for name in ("image", "mask", "box", "label")}


#: Another value of each setting that says what to measure, or how an own picture is completed
OTHER_VALUES = {
    "strategies": ["half"], "decodings": ["sample"], "percentages": [20], "batch_size": 3, "seeds": 1,
    "choosing_passes": 2, "selective_passes": 3, "look_ahead": 0.9, "look_ahead_tokens": 2, "candidates": 3,
    "code_share": 0.1, "blocks": 2, "passes": 2, "fill_order": "halton", "choice_noise": 1.0,
    "temperature": 0.5, "top_k": 3, "top_p": 0.5, "tell_class": True, "guidance_scale": 2.0,
}  # fmt: skip
OTHER_OWN = {"percent": 20, "strategy": "half", "decoding": "sample", "samples": 1, "fit": "tile", "margin": 1}


def test_every_setting_of_the_study_reaches_its_plan(ran):
    section = ran.cfg.reconstruct_masked
    plan = reconstruct_masked.make_plan(section, 0)
    for key, value in OTHER_VALUES.items():
        assert reconstruct_masked.make_plan(section.replace({key: value}), 0) != plan, key
    assert reconstruct_masked.make_plan(section, 1) != plan
    elsewhere = {
        "vqvae", "indices", "distil", "classifier", "clean_classifier", "elsewhere_judge", "painter", "part",
        "pictures", "rivals", "rival_distil", "rival_mae", "rival_pictures", "slow_pictures", "bootstrap",
        "grid_pictures", "own",
    }  # fmt: skip
    assert set(OTHER_VALUES) | elsewhere == set(type(section).model_fields)


def test_every_setting_of_an_own_picture_reaches_its_request(ran):
    distil = load_distilbert(ran.folders["train_distil"] / "model", torch.device("cpu"))

    def request(**changes):
        return request_of(ran.cfg.reconstruct_masked.replace(changes), distil, [], 0)

    for key, value in OTHER_OWN.items():
        assert request(own={key: value}) != request(), key
    only_of_the_study = {"strategies", "decodings", "percentages", "batch_size", "seeds", "tell_class"}
    for key, value in OTHER_VALUES.items():
        assert (request(**{key: value}) != request()) == (key not in only_of_the_study), key
    assert set(OTHER_OWN) | {"image", "mask", "box", "label"} == set(OwnPicture.model_fields)
