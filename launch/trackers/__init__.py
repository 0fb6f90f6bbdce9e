"""Experiment trackers: settings, numbers and figures in TensorBoard, W&B, Trackio or MLflow.

One adapter per library, with the interface of `launch.trackers.tracking.Tracker`.
"""

from launch.trackers.tracking import (
    Tracking,
    check_tracker,
    complete_tracking,
    is_tracked,
    open_tracking,
)

__all__ = ["Tracking", "check_tracker", "complete_tracking", "is_tracked", "open_tracking"]
