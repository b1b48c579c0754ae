"""Every test runs with the house's shape annotations executed, and small ones on one thread."""

import os
from collections.abc import Iterator

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported, here and in what tests start

import pytest
import torch
from tests import annotations

annotations.install()
if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")  # kernels for cards run on the CPU, where Triton is installed


@pytest.fixture(autouse=True)
def threads(request: pytest.FixtureRequest) -> Iterator[None]:
    """One thread: two that wait for each other on a busy machine take forty times as long. All for full shapes."""
    before = torch.get_num_threads()
    torch.set_num_threads((os.cpu_count() or 1) if request.node.get_closest_marker("full") else 1)
    yield
    torch.set_num_threads(before)
