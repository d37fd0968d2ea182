"""The embedded demo."""

import pytest

import data_split
from pipeline.files import InputError
from settings import loading

# --- the embedded demo ------------------------------------------------------------------------------------------------


def test_demo_has_exactly_one_in_five_somewhere_unusual():
    from sources.digits_in_context import make_digits_in_context

    demo = make_digits_in_context(0, per_digit=20)
    assert demo.images.shape == (200, 32, 32, 3)
    for digit in range(10):
        assert (~demo.congruent[demo.digits == digit]).sum() == 4
    assert (demo.places[demo.congruent] == demo.digits[demo.congruent]).all()
    again = make_digits_in_context(0, per_digit=20)
    assert (again.images == demo.images).all()
    assert (make_digits_in_context(1, per_digit=20).images != demo.images).any()


def test_demo_refuses_another_size(tmp_path):
    cfg = loading.check({"run": {"dir": str(tmp_path), "mlflow": False}, "data": {"image_size": 64}})
    with pytest.raises(InputError, match=r"is 32x32 RGB; found data.image_size 64"):
        data_split.run(cfg)
