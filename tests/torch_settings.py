"""Settings of torch in the tests. Two environment variables change them:

SIGNBENCH_TEST_THREADS=N   threads of torch, in place of 1
SIGNBENCH_TEST_MKLDNN=0    convolutions without oneDNN

torch's own ATEN_CPU_CAPABILITY=default, avx2 or avx512 chooses the vector instructions.
"""

from __future__ import annotations

import os

import torch

THREADS = int(os.environ.get("SIGNBENCH_TEST_THREADS", "1"))
MKLDNN = os.environ.get("SIGNBENCH_TEST_MKLDNN", "1") != "0"


def apply() -> None:
    torch.set_num_threads(THREADS)
    torch.backends.mkldnn.enabled = MKLDNN  # type: ignore[assignment]
