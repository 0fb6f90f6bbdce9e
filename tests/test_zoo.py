"""A sample of the zoo: models of timm and torchvision of different kinds."""

from __future__ import annotations

import pytest
from zoo import examine, timm_entry, torchvision_entry

TIMM = [
    "test_byobnet",
    "test_convnext",
    "test_efficientnet",
    "test_mambaout",
    "test_resnet",
    "test_vit",
    "ghostnet_050",
    "lcnet_035",
    "edgenext_xx_small",
    "mobilenetv3_small_050",
    "mobilevit_xxs",
    "regnetx_002",
    "tf_efficientnet_lite0",
    "tf_mobilenetv3_small_minimal_100",
    "tinynet_e",
    "xcit_nano_12_p16_224",
]
TORCHVISION = ["mnasnet0_5", "shufflenet_v2_x0_5", "squeezenet1_1"]


@pytest.mark.parametrize("entry", [timm_entry(name) for name in TIMM], ids=TIMM)
def test_models_of_timm(entry):
    check(examine(entry))


@pytest.mark.parametrize(
    "entry", [torchvision_entry(name) for name in TORCHVISION], ids=TORCHVISION
)
def test_models_of_torchvision(entry):
    check(examine(entry))


def check(row):
    assert row.is_exact, row
    assert row.sparsity == pytest.approx(0.9, abs=1e-4)
    assert (row.prunable >= 0.9) == (row.note == ""), row


@pytest.mark.parametrize("name", ["test_nfnet"])
def test_weight_standardised_models_are_refused(name):
    row = examine(timm_entry(name))
    assert "transforms its weight before it uses it" in row.note and not row.errors
