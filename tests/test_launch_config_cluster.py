"""Resources that a job may request from Slurm."""

from __future__ import annotations

import pytest

from baselines.errors import UserError
from launch.config.cluster import Cluster


@pytest.mark.parametrize(
    "fields, message",
    [
        ({"timeout": "soon"}, "timeout must be such as 90m, 24h or 2d"),
        ({"timeout": "3"}, "timeout must be at least 5 minutes"),
        ({"nodes": 0}, "nodes must be positive"),
        ({"gpus": -1}, "gpus must not be negative, not -1"),
        ({"gpus": 1, "processes": 4}, "one process per GPU: leave out processes"),
        ({"slurm": ("a100",)}, "--slurm takes key=value"),
    ],
)
def test_what_cannot_be_asked_for_is_named(fields, message):
    with pytest.raises(UserError, match=message):
        Cluster(**fields)


def test_processes_are_one_per_gpu_or_given():
    asked = ({}, {"gpus": 4}, {"processes": 3}, {"gpus": 2, "processes": 2})
    assert [Cluster(**fields).tasks for fields in asked] == [1, 4, 3, 2]


def test_times_are_read():
    assert [Cluster(timeout=t).minutes for t in ("30", "90m", "24h", "2d")] == [30, 90, 1440, 2880]
