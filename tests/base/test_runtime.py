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


def test_the_key_is_a_record() -> None:
    key = runtime.key(torch.device("cpu"), torch.float32, 2)
    assert key.device == "cpu"
    assert key.dtype == "float32"
    assert config.from_json(runtime.Key, config.to_json(key)) == key
