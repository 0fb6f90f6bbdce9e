"""Memory of CPU tensors."""

import os

HUGE_PAGES = "THP_MEM_ALLOC_ENABLE"  # torch reads it at its first allocation


def use_huge_pages() -> None:
    """Let torch ask for huge pages, in this process and those that it starts.

    torch does so for CPU tensors of 2 MiB and more, on Linux. Steps on large tensors then miss
    fewer addresses in the processor's page tables. A value that the user has set is kept. Call it
    before the first tensor is made.
    """
    os.environ.setdefault(HUGE_PAGES, "1")
