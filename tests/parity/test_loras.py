"""LoRA files against diffusers and PEFT: those that we write act the same there, and those that they write here."""

import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.parity.peers import Difference, difference, noise, prompts, text_twins, unet_twins
from torch import Tensor, nn

from aquatint.families import SD15, TINY
from aquatint.nets.adapters import Adapter, Decomposed, LowRank
from aquatint.nets.lora import Change, attach
from aquatint.nets.unet import Stage
from aquatint.weights.adapter_names import nets
from aquatint.weights.keymap import shapes
from aquatint.weights.lora_writer import save_lora
from aquatint.weights.loras import Adapters, fit, open_lora

diffusers = pytest.importorskip("diffusers")
peft = pytest.importorskip("peft")

FAMILY = TINY


def adapters(kind: str) -> Adapters:
    """Low ranks for all layers that kohya's scripts train, of two ranks and two alphas."""
    made: Adapters = {}
    for net, config in nets(FAMILY).items():
        for number, (name, shape) in enumerate(shapes(config).items()):
            if len(shape) < 2 or not (".attend." in name or ".res.conv" in name or name.startswith("layers.")):
                continue
            rank, ones = 2 + number % 2, [1] * (len(shape) - 2)
            scale = 2 / rank if kind == "one alpha" else (0.5, 1.0)[number % 2]
            down, up = noise(rank, *shape[1:], seed=number), noise(shape[0], rank, *ones, seed=number + 1000)
            adapter: Adapter = LowRank(down / down[0].numel() ** 0.5, up, scale=scale)
            if kind == "DoRA":
                adapter = Decomposed(adapter, noise(shape[0], seed=number).abs() + 0.5)
            made.setdefault(net, {})[name] = adapter
    return made


def ours_with(net: nn.Module, rows: dict[str, Adapter], strength: float = 1.0) -> nn.Module:
    return attach(net, {name: [Change(adapter, strength)] for name, adapter in rows.items()})


def into_theirs(path: Path, unet: Any, text: Any) -> None:
    """As a pipeline's load_lora_weights does."""
    loader = diffusers.StableDiffusionPipeline
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        state, alphas, *more = loader.lora_state_dict(
            path.parent, weight_name=path.name, unet_config=unet.config, return_lora_metadata=True
        )
        loader.load_lora_into_unet(state, alphas, unet=unet, metadata=more[0] if more else None)
        loader.load_lora_into_text_encoder(
            state, alphas, text_encoder=text, prefix="text_encoder", metadata=more[0] if more else None
        )


@torch.no_grad()
def unets(ours: nn.Module, theirs: Any) -> Difference:
    x, t, context = noise(2, 4, 8, 8), torch.tensor([981.0, 21.0]), noise(2, 77, FAMILY.unet.context, seed=2)
    return difference(ours(x, t, context), theirs(x, t, context).sample)


@torch.no_grad()
def texts(ours: nn.Module, theirs: Any) -> Difference:
    ids = prompts(FAMILY.text, 3)
    return difference(ours(ids).tokens, theirs(ids).last_hidden_state)


# diffusers 0.42 takes one alpha of a kohya file for all, and reads no DoRA there.
@pytest.mark.parametrize("said", ["kohya one alpha", "diffusers one alpha", "diffusers LoRA", "diffusers DoRA"])
def test_what_we_write_acts_the_same_in_diffusers(said: str, tmp_path: Path) -> None:
    dialect, _, kind = said.partition(" ")
    rows = adapters(kind)
    path = save_lora(tmp_path / "a.safetensors", rows, FAMILY, dialect)
    (unet, their_unet), (text, their_text) = unet_twins(FAMILY.unet), text_twins(FAMILY.text)
    before = unets(unet, their_unet)
    into_theirs(path, their_unet, their_text)
    assert before.within
    assert not unets(unet, their_unet).within, "diffusers loaded nothing"
    assert not texts(text, their_text).within, "diffusers loaded nothing"
    found = fit(open_lora(path), FAMILY).adapters
    for given in (rows, found):
        assert unets(ours_with(unet, given["unet"]), their_unet).within
        assert texts(ours_with(text, given["text"]), their_text).within


@pytest.mark.parametrize("options", [{}, {"use_rslora": True}, {"use_dora": True}, {"lora_alpha": 1}], ids=str)
def test_what_peft_writes_acts_the_same_here(options: dict[str, Any], tmp_path: Path) -> None:
    unet, theirs = unet_twins(FAMILY.unet)
    modules = ["to_q", "to_k", "to_v", "to_out.0", "ff.net.0.proj", "conv1", "conv2", "proj_in"]
    settings = {"r": 3, "lora_alpha": 2, "target_modules": modules, "rank_pattern": {"to_q": 2}} | options
    tuned = peft.get_peft_model(theirs, peft.LoraConfig(**settings, init_lora_weights=False)).eval()
    for number, (name, weight) in enumerate(tuned.named_parameters()):
        if "lora_magnitude" in name:
            weight.data += 0.3 * noise(*weight.shape, seed=number).abs()
        elif "lora_" in name:
            weight.data = noise(*weight.shape, seed=number) / weight[0].numel() ** 0.5
    tuned.save_pretrained(tmp_path / "folder")
    found = fit(open_lora(tmp_path / "folder"), FAMILY)
    assert found.account.complete
    assert not unets(unet, tuned).within
    assert unets(ours_with(unet, found.adapters["unet"]), tuned).within


def test_weights_of_less_than_one(tmp_path: Path) -> None:
    rows = adapters("one alpha")
    path = save_lora(tmp_path / "a.safetensors", rows, FAMILY)
    (unet, theirs), (_, text) = unet_twins(FAMILY.unet), text_twins(FAMILY.text)
    into_theirs(path, theirs, text)
    theirs.set_adapters(["default_0"], [0.3])
    assert unets(ours_with(unet, rows["unet"], 0.3), theirs).within


def test_names_of_the_shape_of_stable_diffusion_1(tmp_path: Path) -> None:
    """All the layers that kohya's scripts train, in a U-Net of SD 1.5's stages and blocks, narrower."""
    config = replace(
        SD15.unet, stages=tuple(Stage(32, 2, stage.depth) for stage in SD15.unet.stages), context=32, groups=8
    )
    family = replace(SD15, unet=config, text=TINY.text)
    ours, theirs = unet_twins(config)
    rows: dict[str, Adapter] = {}
    for number, (name, shape) in enumerate(shapes(config).items()):
        if ".attend." in name and len(shape) > 1:
            ones = [1] * (len(shape) - 2)
            down, up = noise(2, *shape[1:], seed=number), noise(shape[0], 2, *ones, seed=number + 1000)
            rows[name] = LowRank(down / shape[1] ** 0.5, up * 0.3, scale=0.5)
    assert len(rows) == 16 * 12
    path = save_lora(tmp_path / "a.safetensors", {"unet": rows}, family)
    state, alphas = diffusers.StableDiffusionPipeline.lora_state_dict(path.parent, weight_name=path.name)
    diffusers.StableDiffusionPipeline.load_lora_into_unet(state, alphas, unet=theirs)
    x, t, context = noise(1, 4, 16, 16), torch.tensor([500.0]), noise(1, 77, 32, seed=2)
    with torch.no_grad():
        wanted: Tensor = theirs(x, t, context).sample
        assert not difference(ours(x, t, context), wanted).within
        assert difference(ours_with(ours, fit(open_lora(path), family).adapters["unet"])(x, t, context), wanted).within
