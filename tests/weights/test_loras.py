"""Adapter files: every kind in every dialect finds its weights, what is written is read again, what is odd is told."""

import json
from collections.abc import Callable, Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, safe_open, save_file
from tests.nets.test_adapters import CASES
from torch import Tensor

from aquatint.base.errors import UserError
from aquatint.families import FAMILIES, SD15, SD21, TINY
from aquatint.nets.adapters import Adapter, Decomposed, Difference, LowRank, Rotation, Scaling, tensors
from aquatint.weights.adapter_names import blocks, layers, nets, spellings
from aquatint.weights.keymap import shapes
from aquatint.weights.lora_writer import save_lora
from aquatint.weights.loras import Fitted, fit, open_lora

Q = "descent.0.cells.0.attend.layers.0.among.q"  # 16 -> 16
K = "descent.0.cells.0.attend.layers.0.across.k"  # 32 -> 16
CONV = "descent.0.cells.0.res.conv1"  # 16 -> 16, 3x3
TEXT = "layers.0.among.q"  # 32 -> 32
Q_NAME, K_NAME = (f"down_blocks.0.attentions.0.transformer_blocks.0.{end}" for end in ("attn1.to_q", "attn2.to_k"))


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed + sum(shape)))


def saved(path: Path, rows: Mapping[str, Tensor], metadata: Mapping[str, Any] | None = None) -> Path:
    save_file({name: tensor.clone().contiguous() for name, tensor in rows.items()}, path, dict(metadata or {}))
    return path


def fitted(path: Path, **options: Any) -> Fitted:
    return fit(open_lora(path), TINY, **options)


def refused(call: Callable[[], object], *words: str) -> str:
    with pytest.raises(UserError) as caught:
        call()
    for word in words:
        assert word in str(caught.value), str(caught.value)
    return str(caught.value)


def same(one: Adapter, two: Adapter, shape: tuple[int, ...]) -> bool:
    weight = noise(*shape, seed=3)
    return type(one) is type(two) and bool(torch.allclose(one.delta(weight), two.delta(weight), atol=1e-5))


DOWN, UP = noise(4, 16), noise(16, 4, seed=1)
WANTED = 0.5 * UP @ DOWN  # alpha 2, rank 4
NAMES = {  # (dialect, alpha's place): tensors of one layer
    "kohya": {
        f"lora_unet_{Q_NAME.replace('.', '_')}.lora_down.weight": DOWN,
        f"lora_unet_{Q_NAME.replace('.', '_')}.lora_up.weight": UP,
        f"lora_unet_{Q_NAME.replace('.', '_')}.alpha": torch.tensor(2.0),
    },
    "kohya, original names": {
        "lora_unet_input_blocks_1_1_transformer_blocks_0_attn1_to_q.lora_down.weight": DOWN,
        "lora_unet_input_blocks_1_1_transformer_blocks_0_attn1_to_q.lora_up.weight": UP,
        "lora_unet_input_blocks_1_1_transformer_blocks_0_attn1_to_q.alpha": torch.tensor([2.0]),
    },
    "LyCORIS": {
        f"lycoris_unet_{Q_NAME.replace('.', '_')}.lora_down.weight": DOWN,
        f"lycoris_unet_{Q_NAME.replace('.', '_')}.lora_up.weight": UP,
        f"lycoris_unet_{Q_NAME.replace('.', '_')}.alpha": torch.tensor(2, dtype=torch.int64),
    },
    "peft": {
        f"base_model.model.{Q_NAME}.lora_A.weight": DOWN,
        f"base_model.model.{Q_NAME}.lora_B.weight": 0.5 * UP,
    },
    "peft, an adapter's name": {
        f"base_model.model.unet.{Q_NAME}.lora_A.default.weight": DOWN,
        f"base_model.model.unet.{Q_NAME}.lora_B.default.weight": 0.5 * UP,
    },
    "diffusers today": {f"unet.{Q_NAME}.lora_A.weight": DOWN, f"unet.{Q_NAME}.lora_B.weight": 0.5 * UP},
    "diffusers": {
        f"unet.{Q_NAME}.lora.down.weight": DOWN,
        f"unet.{Q_NAME}.lora.up.weight": UP,
        f"unet.{Q_NAME}.alpha": torch.tensor(2.0),
    },
    "old diffusers": {
        f"unet.{Q_NAME.replace('.to_q', '.processor.to_q_lora')}.down.weight": DOWN,
        f"unet.{Q_NAME.replace('.to_q', '.processor.to_q_lora')}.up.weight": 0.5 * UP,
    },
    "older diffusers": {
        f"{Q_NAME.replace('.to_q', '.processor.to_q_lora')}.down.weight": DOWN,
        f"{Q_NAME.replace('.to_q', '.processor.to_q_lora')}.up.weight": 0.5 * UP,
    },
}


@pytest.mark.parametrize("dialect", NAMES)
def test_dialects(dialect: str, tmp_path: Path) -> None:
    file = open_lora(saved(tmp_path / "a.safetensors", NAMES[dialect]))
    today = {
        "LyCORIS": "kohya",
        "diffusers today": "peft",
        "old diffusers": "diffusers",
        "older diffusers": "diffusers",
    }
    assert file.dialect == today.get(dialect, dialect.partition(",")[0])
    found = fit(file, TINY)
    assert list(found.adapters["unet"]) == [f"{Q}.weight"]
    assert torch.allclose(found.adapters["unet"][f"{Q}.weight"].delta(torch.zeros(16, 16)), WANTED, atol=1e-5)
    assert found.account.complete
    assert dict(found.account.kinds) == {"LoRA": 1}


@pytest.mark.parametrize("out", ["processor.to_out_lora", "to_out.0.lora", "to_out_lora"])
def test_the_way_out_of_attention(out: str, tmp_path: Path) -> None:
    stem = f"unet.{Q_NAME.replace('to_q', out)}"
    path = saved(tmp_path / "a.safetensors", {f"{stem}.down.weight": DOWN, f"{stem}.up.weight": UP})
    assert list(fitted(path).adapters["unet"]) == [f"{Q[:-1]}out.weight"]


@pytest.mark.parametrize(
    "stem",
    [
        "lora_te_text_model_encoder_layers_0_self_attn_q_proj.lora_{}.weight",
        "lora_te1_text_model_encoder_layers_0_self_attn_q_proj.lora_{}.weight",
        "text_encoder.text_model.encoder.layers.0.self_attn.q_proj.lora_linear_layer.{}.weight",
        "text_encoder.text_model.encoder.layers.0.self_attn.to_q_lora.{}.weight",
        "text_encoder.text_model.encoder.layers.0.self_attn.q_proj.lora.{}.weight",
        "text_model.encoder.layers.0.self_attn.q_proj.lora_{A}.weight",
        "base_model.model.encoder.layers.0.self_attn.q_proj.lora_{A}.weight",
    ],
)
def test_text_encoders(stem: str, tmp_path: Path) -> None:
    names = [stem.format(half, A=letter) for half, letter in (("down", "A"), ("up", "B"))]
    path = saved(tmp_path / "a.safetensors", dict(zip(names, (noise(4, 32), noise(32, 4)), strict=True)))
    assert list(fitted(path).adapters) == ["text"]
    assert list(fitted(path).adapters["text"]) == [f"{TEXT}.weight"]


def every_kind() -> dict[str, tuple[str, Adapter]]:
    """Kinds on layers of TINY that they fit: [16, 16], and a 3x3 kernel."""
    conv = (16, 16, 3, 3)
    rows: dict[str, tuple[str, Adapter]] = {}
    for name, shape, make in CASES:
        adapter, _ = make(shape)
        if shape[2:] != (1, 1):
            rows[f"{name} {len(shape)}"] = (Q if len(shape) == 2 else CONV, widened(adapter))
    rows["OFT"] = (Q, Rotation(noise(4, 4, 4), 0.32, noise(16, 1)))
    rows["OFT, ready"] = (CONV, Rotation(noise(4, 4, 4), ready=True))
    rows["BOFT"] = (Q, Rotation(noise(2, 4, 4, 4)))
    rows["DoRA"] = (K, Decomposed(LowRank(noise(2, 32), noise(16, 2)), noise(16).abs(), 0))
    rows["DoRA of inputs"] = (K, Decomposed(LowRank(noise(2, 32), noise(16, 2)), noise(32).abs(), 1))
    rows["(IA)3"] = (K, Scaling(noise(16)))
    rows["(IA)3 of inputs"] = (K, Scaling(noise(32), 1))
    rows["full"] = (CONV, Difference(noise(*conv)))
    return rows


def widened(adapter: Adapter) -> Adapter:
    """The same kind with sides of 16 where it has 12, 8 and 8 x 9, and a first Kronecker factor of 4 x 4."""
    sides = {12: 16, 8: 16, 8 * 9: 16 * 9}
    made: dict[str, Any] = {}
    for field in fields(adapter):  # type: ignore[arg-type]
        value = getattr(adapter, field.name)
        if isinstance(value, Tensor):
            made[field.name] = noise(*[sides.get(side, side) for side in value.shape])
        elif field.name == "one":
            made[field.name] = (noise(4, 4),) if len(value) == 1 else (noise(4, 2), noise(2, 4))
    return replace(adapter, **made)  # type: ignore[type-var]


@pytest.mark.parametrize("name", every_kind())
def test_every_kind_is_written_and_read(name: str, tmp_path: Path) -> None:
    layer, adapter = every_kind()[name]
    shape = shapes(TINY.unet)[f"{layer}.weight"]
    path = save_lora(tmp_path / "a.safetensors", {"unet": {f"{layer}.weight": adapter}}, TINY)
    found = fitted(path)
    assert list(found.adapters["unet"]) == [f"{layer}.weight"]
    assert same(found.adapters["unet"][f"{layer}.weight"], adapter, shape)
    again = save_lora(tmp_path / "b.safetensors", found.adapters, TINY)
    one, two = load_file(path), load_file(again)
    assert one.keys() == two.keys()
    assert all(torch.equal(one[key], two[key]) for key in one)
    assert all(part.dtype == torch.float32 for part in tensors(found.adapters["unet"][f"{layer}.weight"]))


@pytest.mark.parametrize(
    "name", [name for name, (_, row) in every_kind().items() if isinstance(row, LowRank)] + ["DoRA"]
)
def test_diffusers_can_say_low_ranks(name: str, tmp_path: Path) -> None:
    layer, adapter = every_kind()[name]
    path = save_lora(tmp_path / "a.safetensors", {"unet": {f"{layer}.weight": adapter}}, TINY, "diffusers")
    assert {key.rpartition(".lora_")[2] for key in load_file(path)} >= {"A.weight", "B.weight"}
    found = fitted(path).adapters["unet"][f"{layer}.weight"]
    assert same(found, adapter, shapes(TINY.unet)[f"{layer}.weight"])


@pytest.mark.parametrize("name", ["LoHa 2", "LoKr 2", "OFT", "BOFT", "(IA)3", "full", "DoRA of inputs"])
def test_diffusers_cannot_say_the_others(name: str, tmp_path: Path) -> None:
    layer, adapter = every_kind()[name]
    refused(
        lambda: save_lora(tmp_path / "a.safetensors", {"unet": {f"{layer}.weight": adapter}}, TINY, "diffusers"),
        "no words for",
        "kohya",
    )
    assert not list(tmp_path.iterdir())


def test_biases_and_norms(tmp_path: Path) -> None:
    stem = "lora_unet_down_blocks_0_resnets_0"
    rows = {
        f"{stem}_norm1.w_norm": noise(16),
        f"{stem}_norm1.b_norm": noise(16, seed=1),
        f"{stem}_conv1.diff": noise(16, 16, 3, 3),
        f"{stem}_conv1.diff_b": noise(16, seed=2),
        f"{stem}_conv2.lora_down.weight": noise(2, 16, 3, 3),
        f"{stem}_conv2.lora_up.weight": noise(16, 2, 1, 1),
        f"{stem}_conv2.diff_b": noise(16, seed=3),
    }
    found = fitted(saved(tmp_path / "a.safetensors", rows))
    where = "descent.0.cells.0.res"
    wanted = {f"{where}.{end}" for end in ("norm1.weight", "norm1.bias", "conv1.weight", "conv1.bias", "conv2.weight")}
    assert set(found.adapters["unet"]) == wanted | {f"{where}.conv2.bias"}
    assert dict(found.account.kinds) == {"norm": 2, "full": 3, "LoCon": 1}
    again = fitted(save_lora(tmp_path / "b.safetensors", found.adapters, TINY))
    for name, adapter in found.adapters["unet"].items():
        assert same(adapter, again.adapters["unet"][name], shapes(TINY.unet)[name]), name


def test_peft_folders(tmp_path: Path) -> None:
    saved(
        tmp_path / "adapter_model.safetensors",
        {
            f"base_model.model.{Q_NAME}.lora_A.weight": DOWN,
            f"base_model.model.{Q_NAME}.lora_B.weight": UP,
            f"base_model.model.{K_NAME}.lora_A.weight": noise(2, 32),
            f"base_model.model.{K_NAME}.lora_B.weight": noise(16, 2),
        },
    )
    for settings, scales in (
        ({"lora_alpha": 2}, (0.5, 1.0)),
        ({"lora_alpha": 2, "use_rslora": True}, (1.0, 2 / 2**0.5)),
        ({"lora_alpha": 2, "alpha_pattern": {"attn2.to_k": 8}}, (0.5, 4.0)),
        ({"lora_alpha": 2, "alpha_pattern": {K_NAME: 8, "to_q": 1.0}}, (0.25, 4.0)),
        ({}, (1.0, 1.0)),
    ):
        (tmp_path / "adapter_config.json").write_text(json.dumps(settings))
        rows = fitted(tmp_path).adapters["unet"]
        assert tuple(row.scale for row in rows.values() if isinstance(row, LowRank)) == pytest.approx(scales)
    for alpha in ("2", True, [], 1e300):
        (tmp_path / "adapter_config.json").write_text(json.dumps({"lora_alpha": alpha}))
        refused(lambda: fitted(tmp_path), "lora_alpha")
    (tmp_path / "adapter_config.json").unlink()
    refused(lambda: fitted(tmp_path), "adapter_config.json")


def test_settings_in_the_header(tmp_path: Path) -> None:
    settings = {"lora_adapter_metadata": json.dumps({"unet.lora_alpha": 2, "unet.r": 4, "text_encoder.lora_alpha": 7})}
    rows = {f"unet.{Q_NAME}.lora_A.weight": DOWN, f"unet.{Q_NAME}.lora_B.weight": UP}
    found = fitted(saved(tmp_path / "a.safetensors", rows, settings)).adapters["unet"][f"{Q}.weight"]
    assert torch.allclose(found.delta(torch.zeros(16, 16)), WANTED, atol=1e-5)
    for text in ("[]", "{", '{"unet.lora_alpha": null, "unet.lora_alpha": 1}'):
        refused(lambda text=text: fitted(saved(tmp_path / "b.safetensors", rows, {"lora_adapter_metadata": text})))  # type: ignore[misc]


@pytest.mark.parametrize("row", FAMILIES.values(), ids=FAMILIES)
def test_every_layer_of_every_family_has_its_spellings(row: Any) -> None:
    for net, config in nets(row).items():
        ours = {name.rpartition(".")[0] for name in shapes(config)}
        assert set(spellings(config)) == ours == set(layers(config).values())
        spelled = [name.replace(".", "_") for name in spellings(config).values()]
        assert len(set(spelled)) == len(spelled)
        assert all(layers(config)[name] == layer for layer, name in zip(spellings(config), spelled, strict=True))
        if net == "unet":
            assert set(blocks(config)) == ours


def test_names_read_off_published_files() -> None:
    unet, text = layers(SD15.unet), layers(SD15.text)
    assert (
        unet["up_blocks_3_attentions_2_transformer_blocks_0_ff_net_0_proj"]
        == "ascent.3.cells.2.attend.layers.0.feed.enter"
    )
    assert unet["mid_block_attentions_0_proj_in"] == "middle.first.attend.enter"
    assert unet["down_blocks_2_downsamplers_0_conv"] == "descent.2.shrink.conv"
    assert unet["output_blocks_8_1_transformer_blocks_0_attn2_to_v"] == "ascent.2.cells.2.attend.layers.0.across.v"
    assert text["text_model_encoder_layers_11_mlp_fc2"] == "layers.11.feed.leave"
    assert blocks(SD15.unet)["descent.0.cells.0.res.conv1"] == "IN01"
    assert blocks(SD15.unet)["middle.second.conv1"] == "M00"
    assert blocks(SD15.unet)["ascent.3.cells.2.attend.enter"] == "OUT11"
    assert {blocks(SD15.unet)[name] for name in ("time.enter", "leave")} == {"BASE"}
    assert len(set(blocks(SD15.unet).values())) == 26


KOHYA_Q = f"lora_unet_{Q_NAME.replace('.', '_')}"
GOOD = NAMES["kohya"]
BAD: dict[str, tuple[dict[str, Tensor], tuple[str, ...]]] = {
    "rank 0": (
        {f"{KOHYA_Q}.lora_down.weight": torch.zeros(0, 16), f"{KOHYA_Q}.lora_up.weight": torch.zeros(16, 0)},
        ("rank 0",),
    ),
    "rank 65,536": (
        {f"{KOHYA_Q}.lora_down.weight": torch.zeros(65536, 16), f"{KOHYA_Q}.lora_up.weight": torch.zeros(16, 65536)},
        ("rank 65536", "8,192"),
    ),
    "NaN": (GOOD | {f"{KOHYA_Q}.lora_up.weight": torch.full((16, 4), torch.nan)}, ("not finite",)),
    "infinite alpha": (GOOD | {f"{KOHYA_Q}.alpha": torch.tensor(torch.inf)}, ("not finite",)),
    "two alphas": (GOOD | {f"{KOHYA_Q}.alpha": torch.ones(2)}, ("alpha of 2",)),
    "whole numbers": (GOOD | {f"{KOHYA_Q}.lora_up.weight": torch.ones(16, 4, dtype=torch.int32)}, ("I32",)),
    "one half": ({f"{KOHYA_Q}.lora_down.weight": DOWN}, ("lacks its up",)),
    "alpha alone": (
        {f"{KOHYA_Q}.alpha": torch.tensor(1.0), **{k.replace("attn1", "attn2"): v for k, v in GOOD.items()}},
        ("nothing to scale",),
    ),
    "lengths alone": ({**GOOD, f"{KOHYA_Q.replace('to_q', 'to_v')}.dora_scale": noise(16)}, ("lengths",)),
    "halves that do not meet": (GOOD | {f"{KOHYA_Q}.lora_up.weight": noise(16, 5)}, ("do not meet",)),
    "another width": (GOOD | {f"{KOHYA_Q}.lora_down.weight": noise(4, 24)}, ("made for 24 -> 16",)),
    "no sides": (GOOD | {f"{KOHYA_Q}.lora_down.weight": torch.tensor(1.0)}, ("rank 0",)),
    "an unknown part": (GOOD | {f"{KOHYA_Q}.sparkle": DOWN}, ("sparkle", "no kind")),
    "an unknown name": (GOOD | {"sparkle": DOWN}, ("no name of any dialect",)),
    "a long name": (GOOD | {"x" * 900: DOWN}, ("no name of any dialect",)),
    "no such layer": ({**GOOD, "lora_unet_nowhere.alpha": torch.tensor(1.0)}, ("no layer of TINY",)),
    "a second text encoder": (
        {**GOOD, "lora_te2_text_model_encoder_layers_0_mlp_fc1.alpha": torch.tensor(1.0)},
        ("second text encoder",),
    ),
    "a bias that is not there": ({**GOOD, f"{KOHYA_Q}.diff_b": noise(16)}, ("changes a bias",)),
    "mixed dialects": (GOOD | NAMES["peft"], ("mixes dialects", "as kohya", "as peft")),
    "twice": (GOOD | {f"lycoris_unet_{Q_NAME.replace('.', '_')}.lora_down.weight": DOWN}, ("says twice",)),
    "a model": ({"model.diffusion_model.input_blocks.0.0.weight": noise(3)}, ("holds no adapter",)),
    "Flux": ({"lora_unet_double_blocks_0_img_attn_proj.lora_down.weight": DOWN}, ("Flux",)),
    "SD3": ({"transformer.transformer_blocks.0.attn.to_q.lora_A.weight": DOWN}, ("transformer",)),
    "SDXL": (
        {"lora_unet_input_blocks_4_1_transformer_blocks_0_attn2_to_k.lora_down.weight": noise(4, 2048)},
        ("made for Stable Diffusion XL", "2048", "TINY"),
    ),
    "SDXL, LoHa": (
        {"lora_unet_input_blocks_4_1_transformer_blocks_0_attn2_to_k.hada_w1_b": noise(4, 2048)},
        ("made for Stable Diffusion XL",),
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_what_is_wrong_is_told(name: str, tmp_path: Path) -> None:
    rows, words = BAD[name]
    said = refused(lambda: fitted(saved(tmp_path / "bad.safetensors", rows)), "bad", *words)
    assert len(said) < 900


def test_a_lora_of_another_width_is_named(tmp_path: Path) -> None:
    path = save_lora(
        tmp_path / "sd21.safetensors", {"unet": {f"{K}.weight": LowRank(noise(2, 1024), noise(320, 2))}}, SD21
    )
    assert open_lora(path).made_for == "Stable Diffusion 2"
    refused(lambda: fit(open_lora(path), SD15), "Stable Diffusion 2", "SD15", "768")
    assert fit(open_lora(path), SD21).account.complete


def test_partial(tmp_path: Path) -> None:
    path = saved(tmp_path / "half.safetensors", {**GOOD, "lora_unet_nowhere.alpha": torch.tensor(1.0)})
    refused(lambda: fitted(path), "fits TINY in 1 of 2 layers", "partial")
    found = fitted(path, partial=True)
    assert list(found.adapters["unet"]) == [f"{Q}.weight"]
    assert not found.account.complete
    assert found.account.told() == ['"half": unet.nowhere is no layer of TINY.']
    nothing = saved(tmp_path / "none.safetensors", {"lora_unet_nowhere.lora_down.weight": DOWN})
    refused(lambda: fitted(nothing, partial=True), "0 of 1")


def test_what_a_header_says(tmp_path: Path) -> None:
    counts = {"10_x": {"sks dog": 10, "grass ": 3, "tree": "many", "sky": 5}, "odd": 3}
    file = open_lora(saved(tmp_path / "a.safetensors", GOOD, {"ss_tag_frequency": json.dumps(counts)}))
    assert file.words == ("sks dog", "sky", "grass")
    assert file.ranks == (4,)
    for text in ("{", "[1]", "null", '{"a": 1}'):
        assert open_lora(saved(tmp_path / "a.safetensors", GOOD, {"ss_tag_frequency": text})).words == ()
    said = open_lora(saved(tmp_path / "a.safetensors", GOOD, {"modelspec.trigger_phrase": "sks"}))
    assert said.words == ("sks",)


def test_headers_that_others_read(tmp_path: Path) -> None:
    adapters = {"unet": {f"{Q}.weight": LowRank(DOWN, UP, scale=0.5)}}
    path = save_lora(tmp_path / "ink.safetensors", adapters, TINY, metadata={"modelspec.trigger_phrase": "ink"})
    with safe_open(path, "pt") as file:
        said = file.metadata()
    assert (said["ss_network_dim"], said["ss_network_alpha"]) == ("4", "2.0")
    assert said["ss_network_module"] == "networks.lora"
    assert said["sshs_model_hash"] == open_lora(path).hash
    assert said["modelspec.trigger_phrase"] == "ink"
    assert said["modelspec.title"] == said["ss_output_name"] == "ink"
    refused(lambda: save_lora(path, adapters, TINY), "exists already")
    refused(lambda: save_lora(tmp_path / "x.pt", adapters, TINY), ".safetensors")
    refused(lambda: save_lora(tmp_path / "x.safetensors", {}, TINY), "no adapter")
    refused(lambda: save_lora(tmp_path / "x.safetensors", adapters, TINY, "kohia"), "kohya")
    refused(lambda: save_lora(tmp_path / "x.safetensors", adapters, TINY, dtype=torch.int8), "torch.int8")
    big = {"unet": {f"{Q}.weight": LowRank(DOWN * 1e6, UP)}}
    refused(lambda: save_lora(tmp_path / "x.safetensors", big, TINY, dtype=torch.float16), "not finite")
    assert sorted(item.name for item in tmp_path.iterdir()) == ["ink.safetensors"]
    again = save_lora(tmp_path / "x" / "ink.safetensors", adapters, TINY, metadata={"modelspec.trigger_phrase": "ink"})
    assert again.read_bytes() == path.read_bytes()


def test_a_pickled_lora_is_read_as_data(tmp_path: Path) -> None:
    torch.save(GOOD, tmp_path / "a.pt")
    found = fitted(tmp_path / "a.pt").adapters["unet"][f"{Q}.weight"]
    assert torch.allclose(found.delta(torch.zeros(16, 16)), WANTED, atol=1e-5)
