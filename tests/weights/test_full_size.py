"""Stable Diffusion 1.5 at its published size, from a file made here: seconds to open, and no second copy in memory."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from tests.weights.models import single_file

from aquatint.families import SD15
from aquatint.weights import writer

# A process of its own, so that the peak is that of opening alone. Mapped pages of the file count in it as well.
SCRIPT = """
import json, resource, sys, time, torch
from aquatint.weights import open_model
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
start = time.perf_counter()
opened = open_model(sys.argv[1])
seconds = time.perf_counter() - start
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
values = sum(p.numel() for net in (opened.unet, opened.autoencoder, opened.text) for p in net.parameters())
print(json.dumps({"seconds": seconds, "bytes": (peak - before) * 1024, "values": values, "family": opened.family.name,
                  "dtype": str(opened.unet.enter.weight.dtype)}))
"""


@pytest.mark.full
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=["float32", "float16"])
def test_opening_costs_seconds_and_no_second_copy(dtype: torch.dtype, tmp_path: Path) -> None:
    rows = single_file(SD15, dtype=dtype)
    path = tmp_path / "model.safetensors"
    generator = torch.Generator().manual_seed(0)
    with open(path, "wb") as file:
        file.write(writer.head(rows, {}))
        for row in writer.ordered(rows):
            values = torch.randn(row.shape, generator=generator) * 0.02
            file.write(writer.bytes_of(values.to(row.dtype)))
    done = subprocess.run([sys.executable, "-c", SCRIPT, str(path)], capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-2000:]
    facts = json.loads(done.stdout.splitlines()[-1])
    print(facts)
    assert facts["family"] == "SD15"
    assert facts["dtype"] == "torch.float32"
    assert facts["values"] == 859_520_964 + 83_653_863 + 123_060_480
    # One copy of the weights in float32, and at most a quarter more for what is on its way.
    assert facts["bytes"] < 1.25 * 4 * facts["values"]
    assert facts["seconds"] < 60
