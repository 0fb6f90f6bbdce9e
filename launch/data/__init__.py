"""Data sets and their batches, whose order and augmentation depend on (seed, epoch) only.

Small images, features and tokens are held as one tensor on the training device, where whole batches
of images are cropped and flipped (`resident`); larger images stream from an image folder
(`streamed`). Both give each rank its slice of one global order, so that the ranks' batches together
are the batch that a single process sees.
"""

from launch.data.load import describe_data, load_data

__all__ = ["describe_data", "load_data"]
