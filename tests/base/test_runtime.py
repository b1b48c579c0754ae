"""Device, number format and threads: what is asked for, or one clear error."""

import pytest
import torch

from aquatint.base import config, runtime
from aquatint.base.errors import UserError


def test_choices() -> None:
    cpu = runtime.choose_device("cpu")
    assert cpu == torch.device("cpu")
    assert runtime.choose_device().type in runtime.DEVICES
    assert runtime.choose_dtype("auto", cpu) is torch.float32
    assert runtime.choose_dtype("auto", torch.device("cuda")) is torch.float16
    assert runtime.choose_dtype("bfloat16", cpu) is torch.bfloat16


@pytest.mark.parametrize("name", ["gpu", "", "cpu:x", "cuda:99", "cuda:-1", "cpu:cpu"])
def test_a_device_that_is_not_here(name: str) -> None:
    with pytest.raises(UserError):
        runtime.choose_device(name)


def test_an_intel_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.xpu, "is_available", lambda: False)
    with pytest.raises(UserError, match="sees: 0"):
        runtime.choose_device("xpu")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    assert runtime.choose_device().type == "cpu"
    monkeypatch.setattr(torch.xpu, "is_available", lambda: True)
    monkeypatch.setattr(torch.xpu, "device_count", lambda: 2)
    monkeypatch.setattr(torch.xpu, "get_device_name", lambda device: "Intel Arc")
    assert runtime.choose_device().type == "xpu"
    with pytest.raises(UserError, match="sees: 2"):
        runtime.choose_device("xpu:2")
    device = runtime.choose_device("xpu:1")
    assert device.index == 1
    assert runtime.choose_dtype("auto", device) is torch.float32
    assert runtime.key(device, torch.float32, 1).device == "Intel Arc"
    with runtime.exact(device, 1):
        assert not torch.is_grad_enabled()


def test_an_unknown_dtype() -> None:
    with pytest.raises(UserError, match='Did you mean "float32"'):
        runtime.choose_dtype("float31", torch.device("cpu"))


def test_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AQUATINT_THREADS", raising=False)
    assert runtime.choose_threads() == torch.get_num_threads()
    monkeypatch.setenv("AQUATINT_THREADS", "3")
    assert runtime.choose_threads() == 3
    assert runtime.choose_threads(1) == 1
    for bad in ("0", "-1", "many", "99999"):
        monkeypatch.setenv("AQUATINT_THREADS", bad)
        with pytest.raises(UserError):
            runtime.choose_threads()


def test_the_callers_settings_come_back() -> None:
    before = torch.get_num_threads()
    with runtime.exact(torch.device("cpu"), before + 1):
        assert torch.get_num_threads() == before + 1
        assert not torch.is_grad_enabled()
    assert torch.get_num_threads() == before
    assert torch.is_grad_enabled()


@pytest.mark.parametrize("setting", ["older", "newer", "none"])
def test_products_are_not_shortened(setting: str) -> None:
    """Whichever of torch's two settings the caller used, and both as they were afterwards."""
    newer = torch.backends.cuda.matmul, torch.backends.mkldnn.matmul
    kept = [backend.fp32_precision for backend in newer]
    try:
        if setting == "older":
            torch.set_float32_matmul_precision("medium")
        elif setting == "newer":
            newer[0].fp32_precision = "tf32"
        before = [backend.fp32_precision for backend in newer]
        with runtime.exact(torch.device("cpu"), torch.get_num_threads()):
            assert torch.get_float32_matmul_precision() == "highest"
            assert {backend.fp32_precision for backend in newer} <= {"ieee", "none"}
        assert [backend.fp32_precision for backend in newer] == before
        if setting == "older":
            assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision("highest")
        for backend, precision in zip(newer, kept, strict=True):
            backend.fp32_precision = precision


def test_the_key_is_a_record() -> None:
    key = runtime.key(torch.device("cpu"), torch.float32, 2)
    assert key.device == "cpu"
    assert key.dtype == "float32"
    assert config.from_json(runtime.Key, config.to_json(key)) == key


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("6GB", 6 * 10**9), ("6 G", 6 * 10**9), ("0", 0), ("17B", 17), ("1.5k", 1500), ("2K", 2000),
        ("800MiB", 800 * 2**20), ("3Mi", 3 * 2**20), ("1TB", 10**12),
    ],
)  # fmt: skip
def test_bytes_are_read(text: str, count: int) -> None:
    assert runtime.read_bytes(text) == count


@pytest.mark.parametrize("text", ["", "much", "-1", "6 GBs", "6Gb", "1e9", "٦GB", "6iB", "9" * 30])
def test_what_is_no_number_of_bytes_is_refused(text: str) -> None:
    with pytest.raises(UserError, match="bytes"):
        runtime.read_bytes(text)


def test_free_memory_is_within_the_limits_of_the_cgroup(monkeypatch: pytest.MonkeyPatch) -> None:
    system = {"/proc/meminfo": ["MemTotal: 9000 kB", "MemAvailable: 5000 kB"]}
    monkeypatch.setattr(runtime, "_lines", lambda path: system.get(path, []))
    assert runtime.free_memory() == 5000 * 1024
    system |= {"/sys/fs/cgroup/memory.max": ["max"], "/sys/fs/cgroup/memory.current": ["77"]}
    assert runtime.free_memory() == 5000 * 1024
    system["/proc/self/cgroup"] = ["0::/mine"]
    system |= {"/sys/fs/cgroup/mine/memory.max": ["4000000"], "/sys/fs/cgroup/mine/memory.current": ["1000000"]}
    assert runtime.free_memory() == 3_000_000
    system["/proc/self/cgroup"] = ["4:cpu,cpuacct:/", "3:memory:/other"]
    old = "/sys/fs/cgroup/memory/other/memory."
    system |= {f"{old}limit_in_bytes": ["2000000"], f"{old}usage_in_bytes": ["2500000"]}
    assert runtime.free_memory() == 0
    system.clear()
    assert runtime.free_memory() > 2**28  # half of what is built in
