"""Checkpoints: damage is noticed wherever it is, the one before is gone on from, and a folder has one run at a time."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from aquatint.base.errors import UserError
from aquatint.training.optim import Average, adamw
from aquatint.training.recipe import Optim
from aquatint.training.state import Damaged, checkpoints, locked, newest, read, save_state


def saved(folder: Path, step: int) -> Path:
    """A checkpoint of a net of six numbers that has moved once."""
    net = nn.Linear(2, 2)
    nn.init.constant_(net.weight, float(step))
    optimiser = adamw(net, Optim())
    net(torch.ones(1, 2)).sum().backward()
    optimiser.step()
    facts = {"recipe": "small", "step": step, "spent": 1.5}
    return save_state(folder, facts, {"net": net}, {"net": [Average(net, 0.9)]}, {"net": optimiser})


def test_every_damaged_byte_is_noticed(tmp_path: Path) -> None:
    path = saved(tmp_path, 1)
    data, (facts, tensors) = path.read_bytes(), read(path)
    length = 8 + int.from_bytes(data[:8], "little")
    padding = data[:length].rstrip(b" ")
    harmless = range(len(padding), length)  # blanks behind the head, where another blank kind is no change
    for place in range(len(data)):
        if place in harmless:
            continue
        path.write_bytes(data[:place] + bytes([data[place] ^ 0x01]) + data[place + 1 :])
        with pytest.raises(Damaged):
            read(path)
    for size in range(0, len(data), 7):
        path.write_bytes(data[:size])
        with pytest.raises(Damaged):
            read(path)
    path.write_bytes(data)
    again = read(path)
    assert again[0] == facts
    assert all(torch.equal(again[1][name], tensor) for name, tensor in tensors.items())


def test_a_damaged_checkpoint_gives_way_to_the_one_before(tmp_path: Path) -> None:
    saved(tmp_path, 1)
    last = saved(tmp_path, 2)
    data = last.read_bytes()
    last.write_bytes(data[:-1])
    told: list[str] = []
    found = newest(tmp_path, told.append)
    assert found is not None
    assert found[0]["step"] == 1
    assert len(told) == 1
    assert last.name in told[0]
    checkpoints(tmp_path)[0].write_bytes(b"")
    with pytest.raises(Damaged, match=last.name):
        newest(tmp_path, told.append)
    assert newest(tmp_path / "nowhere", told.append) is None


def test_facts_of_another_run_are_noticed(tmp_path: Path) -> None:
    path = saved(tmp_path, 1)
    data = path.read_bytes()
    text = json.dumps(json.dumps({"recipe": "small", "step": 1, "spent": 1.5}))[1:-1].encode()
    assert text in data
    path.write_bytes(data.replace(text, text.replace(b"1.5", b"9.5")))
    with pytest.raises(Damaged):
        read(path)


def test_a_folder_has_one_run_at_a_time(tmp_path: Path) -> None:
    program = f"""
import sys, time
from pathlib import Path
from aquatint.training.state import locked
with locked(Path({str(tmp_path)!r})):
    print("mine", flush=True)
    time.sleep(60)
"""
    other = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    try:
        assert other.stdout is not None
        assert other.stdout.readline() == "mine\n"
        with pytest.raises(UserError, match="Another run is at work"), locked(tmp_path):
            pass
    finally:
        other.kill()
        other.wait()
    with locked(tmp_path):  # whoever died holds nothing
        pass
