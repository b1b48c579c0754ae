"""Missing, damaged, mislabelled and hostile files: one clear UserError each, that names what is wrong."""

import contextlib
import json
import math
import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, safe_open, save_file

from aquatint.base.errors import UserError
from aquatint.weights import assembly, inspect, open_model

UNET = "model.diffusion_model."


def refused(path: str | Path, **options: Any) -> str:
    """What opening says; anything but a UserError fails the test."""
    with pytest.raises(UserError) as caught:
        open_model(path, **options)
    return str(caught.value)


@pytest.fixture
def single(saved: Callable[[str], Path], tmp_path: Path) -> Path:
    """A single file of one's own, with its tokenizer."""
    shutil.copytree(saved("compvis").with_suffix(".tokenizer"), tmp_path / "model.tokenizer")
    return Path(shutil.copy(saved("compvis"), tmp_path / "model.safetensors"))


@pytest.fixture
def folder(saved: Callable[[str], Path], tmp_path: Path) -> Path:
    """A diffusers folder of one's own."""
    return Path(shutil.copytree(saved("diffusers"), tmp_path / "model"))


def rewritten(path: Path, change: Callable[[dict[str, torch.Tensor]], None]) -> Path:
    """The same file with some tensors changed; its description goes, since the digest would not fit."""
    tensors = load_file(path)
    change(tensors)
    with safe_open(path, "pt") as file:
        metadata = json.loads(file.metadata()["aquatint"]) | {"digest": "0" * 64}
    save_file(tensors, path, {"aquatint": json.dumps(metadata)})
    return path


CONTENTS = {
    b"": "is empty",
    b"PK\x03\x04" + bytes(99): "its zip directory is damaged",
    b"\x80\x02}q\x00X\x05\x00\x00\x00": "its pickle breaks off",
    b"\x80\x04\x95": "its pickle breaks off",
    b"GGUF\x03\x00\x00\x00": "GGUF",
    b"version https://git-lfs.github.com/spec/v1\noid sha256:": "git lfs pull",
    b"<!DOCTYPE html><html>": "web page",
    b"\x89PNG\r\n\x1a\n": "a picture",
    b"hello": "not a whole safetensors file",
    bytes(100): "not a whole safetensors file",
    b"\xf0\xbc\xd8" + b"\xff" * 200: "not a whole safetensors file",
}


@pytest.mark.parametrize("content", CONTENTS, ids=lambda content: repr(content[:12]))
@pytest.mark.parametrize("name", ["model.safetensors", "model.ckpt"])
def test_a_file_is_known_by_its_content(content: bytes, name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    assert CONTENTS[content] in refused(tmp_path / name)


def test_a_files_name_does_not_matter(single: Path) -> None:
    for name in ("model.ckpt", "model", "model.png"):
        path = single.rename(single.with_name(name))
        assert inspect(path).complete
        path.rename(single)


@pytest.mark.parametrize("path", ["nowhere/else/model", "./missing", "missing.safetensors", "\0", "x" * 5000, ""])
def test_nothing_there(path: str) -> None:
    assert len(refused(path)) < 500


def test_truncated_files(single: Path) -> None:
    data = single.read_bytes()
    for share in (0.0001, 0.01, 0.1, 0.5, 0.999):
        single.write_bytes(data[: int(len(data) * share)])
        assert "not a whole safetensors file" in refused(single)


def drop(name: str) -> Callable[[dict[str, torch.Tensor]], None]:
    return lambda tensors: tensors.__delitem__(name)


def put(name: str, make: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[dict[str, torch.Tensor]], None]:
    return lambda tensors: tensors.update({name: make(tensors.get(name, torch.zeros(1)))})


def one_bad(value: float) -> Callable[[torch.Tensor], torch.Tensor]:
    def spoil(tensor: torch.Tensor) -> torch.Tensor:
        tensor = tensor.clone()
        tensor.view(-1)[-1] = value
        return tensor

    return spoil


IN = UNET + "input_blocks.0.0.weight"
CHANGES = {
    "wrong shape": (put(IN, lambda t: t[:, :3].contiguous()), [IN, "[16, 3, 3, 3]", "[16, 4, 3, 3]"]),
    "wrong number format": (put(IN, lambda t: t.long()), [IN, "I64"]),
    "missing": (drop(UNET + "out.2.bias"), ["nothing for 1", UNET + "out.2.bias"]),
    "unknown inside": (put(UNET + "extra.weight", lambda t: t), ["no place for 1", UNET + "extra.weight"]),
    "NaN": (put("first_stage_model.quant_conv.bias", one_bad(math.nan)), ["first_stage_model.quant_conv.bias", "NaN"]),
    "infinite": (put(IN, one_bad(-math.inf)), [IN, "not finite"]),
    "too large": (put(IN, lambda t: one_bad(1e300)(t.double())), [IN, "not finite"]),
}


@pytest.mark.parametrize("case", CHANGES)
def test_tensors_that_do_not_fit(case: str, single: Path) -> None:
    change, words = CHANGES[case]
    said = refused(rewritten(single, change))
    assert all(word in said for word in words), said


def test_values_that_do_not_fit_the_format_asked_for(single: Path) -> None:
    rewritten(single, put(IN, one_bad(1e6)))
    said = refused(single, dtype=torch.float16)
    assert IN in said
    assert "Use float32" in said


OTHERS = {
    "a LoRA": ["lora_unet_down_blocks_0_attentions_0_proj_in.lora_down.weight"],
    "holds no text encoder": [IN, "first_stage_model.a", "conditioner.embedders.0.transformer.text_model.a"],
    "an autoencoder alone": ["first_stage_model.encoder.conv_in.weight"],
    "a ControlNet": ["control_model.time_embed.0.weight"],
    "no model that is known": ["layers.0.weight"],
    "no text encoder": [IN, "first_stage_model.encoder.conv_in.weight"],
    "does not attend to text": [IN, "first_stage_model.a", "cond_stage_model.transformer.text_model.a"],
}


@pytest.mark.parametrize("kind", OTHERS)
def test_files_that_are_something_else(kind: str, tmp_path: Path) -> None:
    save_file({name: torch.zeros(4, 4, 3, 3) for name in OTHERS[kind]}, tmp_path / "x.safetensors")
    assert kind in refused(tmp_path / "x.safetensors")


@pytest.mark.parametrize("part", ["unet", "vae", "text_encoder"])
def test_folders_that_lack_a_part(part: str, folder: Path) -> None:
    names = {"unet": "U-Net", "vae": "autoencoder", "text_encoder": "text encoder"}
    weights = next((folder / part).glob("*.safetensors"))
    data = weights.read_bytes()
    weights.unlink()
    said = refused(folder)
    assert f"lacks the weights of the {names[part]}" in said
    old = "pytorch_model.bin" if part == "text_encoder" else "diffusion_pytorch_model.bin"
    (folder / part / old).write_bytes(b"x")
    assert f"{old}" in refused(folder)
    (folder / part / old).unlink()
    weights.write_bytes(data[:-4])
    assert "4 bytes are missing at its end" in refused(folder)
    (folder / part / "config.json").unlink()
    assert f"lacks {part}/config.json" in refused(folder)
    shutil.rmtree(folder / part)
    assert f"lacks the folder {part}" in refused(folder)


def test_folders_that_hold_no_model(tmp_path: Path, single: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert "holds no model" in refused(tmp_path / "empty")
    single.rename(tmp_path / "other.safetensors")
    assert "Did you mean" in refused(tmp_path)
    (tmp_path / "pickles").mkdir()
    (tmp_path / "pickles/old.ckpt").write_bytes(b"x")
    assert "pickles/old.ckpt" in refused(tmp_path / "pickles")


def hide_in_shards(folder: Path, table: Any) -> Path:
    """The U-Net's one file replaced by an index that says `table`."""
    home = folder / "unet"
    (home / "diffusion_pytorch_model.safetensors").rename(home / "a.safetensors")
    (home / "diffusion_pytorch_model.safetensors.index.json").write_text(json.dumps({"weight_map": table}))
    return home


def test_indexes_of_shards(folder: Path, tmp_path: Path) -> None:
    names = list(load_file(folder / "unet/diffusion_pytorch_model.safetensors"))
    home = hide_in_shards(folder, dict.fromkeys(names, "a.safetensors"))
    index = home / "diffusion_pytorch_model.safetensors.index.json"
    assert inspect(folder).complete
    shutil.copy(home / "a.safetensors", tmp_path / "outside.safetensors")
    (home / "link.safetensors").symlink_to(tmp_path / "outside.safetensors")
    for table, words in (
        (dict.fromkeys(names, "../../outside.safetensors"), "names the file"),
        (dict.fromkeys(names, str(tmp_path / "outside.safetensors")), "names the file"),
        (dict.fromkeys(names, "..\\outside.safetensors"), "names the file"),
        (dict.fromkeys(names, ".."), "names the file"),
        (dict.fromkeys(names, ""), "names the file"),
        (dict.fromkeys(names, "link.safetensors"), "leads out of its folder"),
        (dict.fromkeys(names, "b.safetensors"), '"b.safetensors" is missing'),
        (dict.fromkeys(names[1:], "a.safetensors"), "does not hold the tensors that its index says"),
        (dict.fromkeys([*names, "more"], "a.safetensors"), "does not hold the tensors that its index says"),
        (dict.fromkeys(names, 3), "no weight_map"),
        ({}, "no weight_map"),
        ([], "no weight_map"),
    ):
        index.write_text(json.dumps({"weight_map": table}))
        said = refused(folder).replace(f"{home}/", "")
        assert words in said, said
    index.write_text("[1]")
    assert "JSON object" in refused(folder)
    index.write_text(json.dumps({"weight_map": dict.fromkeys(names, "a.safetensors")}))
    data = (home / "a.safetensors").read_bytes()
    (home / "a.safetensors").write_bytes(data[:-5])
    assert "5 bytes are missing" in refused(folder)


def test_links_that_lead_out(folder: Path, tmp_path: Path) -> None:
    for name in ("unet/config.json", "vae/diffusion_pytorch_model.safetensors", "tokenizer/merges.txt"):
        outside = shutil.move(folder / name, tmp_path / "outside")
        (folder / name).symlink_to(outside)
        assert "leads out of its folder" in refused(folder)
        (folder / name).unlink()
        shutil.move(outside, folder / name)
    shutil.move(folder / "vae", tmp_path / "vae")
    (folder / "vae").symlink_to(tmp_path / "vae")
    assert "leads out of its folder" in refused(folder)
    (folder / "vae").unlink()
    shutil.move(tmp_path / "vae", folder / "vae")
    os.mkfifo(folder / "pipe")
    assert "a device, pipe or socket" in refused(folder / "pipe")
    (tmp_path / "alias").symlink_to(folder)  # the user's own link to the whole folder is theirs to make
    assert inspect(tmp_path / "alias").complete


CONFIGS: dict[str, Any] = {
    "not JSON": "{",
    "a list": "[]",
    "nested": '{"a":' * 50_000 + "1" + "}" * 50_000,
    "NaN": '{"norm_eps": NaN}',
    "a name twice": '{"in_channels": 4, "in_channels": 4}',
    "larger than any": " " * 5_000_000,
    "unknown class": {"_class_name": "os.system"},
    "code of its own": {"auto_map": {"AutoModel": "evil.Model"}},
    "a field that matters": {"time_cond_proj_dim": 256},
    "an unknown field": {"new_kind_of_attention": "sideways"},
    "another activation": {"act_fn": "gelu"},
    "unknown block": {"down_block_types": ["__import__('os')"] * 4},
    "too many blocks": {"down_block_types": ["DownBlock2D"] * 1000},
    "huge width": {"block_out_channels": [10**9, 10**9, 10**9, 10**9]},
    "huger width": {"block_out_channels": [10**400] * 4},
    "no width": {"block_out_channels": [0, 0, 0, 0]},
    "negative": {"in_channels": -4},
    "a text for a number": {"in_channels": "4"},
    "true for a number": {"layers_per_block": True},
    "a fraction": {"norm_num_groups": 7.5},
    "groups that do not divide": {"norm_num_groups": 7},
    "heads that do not divide": {"attention_head_dim": 5},
    "no heads": {"attention_head_dim": 0},
    "endless blocks": {"layers_per_block": 10**9},
    "endless depth": {"transformer_layers_per_block": 10**9},
    "other text": {"cross_attention_dim": 48},
    "one width too few": {"block_out_channels": [16, 32, 48]},
}


@pytest.mark.parametrize("case", CONFIGS)
def test_hostile_configs(case: str, folder: Path) -> None:
    config = CONFIGS[case]
    path = folder / "unet/config.json"
    text = config if isinstance(config, str) else json.dumps(json.loads(path.read_text()) | config)
    path.write_text(text)
    assert len(refused(folder)) < 700


OTHER_FILES = {
    "vae/config.json": [
        {"scaling_factor": 0},
        {"scaling_factor": "1"},
        {"scaling_factor": 10**400},
        {"latents_mean": [0.0]},
        {"use_quant_conv": False},
        {"latent_channels": 5},
        {"_class_name": "AutoencoderTiny"},
        {"block_out_channels": []},
    ],
    "text_encoder/config.json": [
        {"hidden_act": "relu"},
        {"hidden_act": ["relu"]},
        {"num_hidden_layers": 10**6},
        {"hidden_size": 0},
        {"vocab_size": 2**40},
        {"model_type": "t5"},
        {"layer_norm_eps": 0.1},
        {"num_hidden_layers": 3},
    ],
    "scheduler/scheduler_config.json": [
        {"prediction_type": "flow"},
        {"prediction_type": {}},
        {"beta_schedule": "evil"},
        {"num_train_timesteps": 10**12},
        {"num_train_timesteps": 1},
        {"beta_start": 2.0},
        {"beta_start": "x"},
        {"trained_betas": [0.1]},
        {"_class_name": "EvilScheduler"},
    ],
    "model_index.json": [
        {"_class_name": "StableDiffusionXLPipeline"},
        {"_class_name": None},
        {"unet": ["evil_module", "EvilNet"]},
        {"text_encoder": ["transformers", "T5EncoderModel"]},
        {"scheduler": ["diffusers", "EvilScheduler"]},
    ],
}


@pytest.mark.parametrize(
    ("name", "change"), [(name, row) for name, rows in OTHER_FILES.items() for row in rows], ids=str
)
def test_hostile_documents(name: str, change: dict[str, Any], folder: Path) -> None:
    path = folder / name
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    assert len(refused(folder)) < 700


def test_hostile_descriptions(single: Path) -> None:
    tensors = load_file(single)
    with safe_open(single, "pt") as file:
        good = json.loads(file.metadata()["aquatint"])

    def with_family(**changes: Any) -> str:
        return json.dumps(good | {"family": good["family"] | changes})

    unet = good["family"]["unet"]
    for text in (
        "",
        "{",
        "[]",
        json.dumps(good | {"version": 2}),
        json.dumps(good | {"more": 1}),
        json.dumps({"version": 1}),
        with_family(prediction="os.system"),
        with_family(unet=unet | {"blocks": 10**9}),
        with_family(unet=unet | {"blocks": 2.0}),
        with_family(unet=unet | {"stages": [{"width": 16, "heads": 3, "depth": 1}]}),
        with_family(unet=unet | {"stages": []}),
        with_family(unet=unet | {"evil": 1}),
        with_family(text=good["family"]["text"] | {"activation": "eval"}),
        with_family(schedule=good["family"]["schedule"] | {"kind": "evil"}),
    ):
        save_file(tensors, single, {"aquatint": text})
        assert len(refused(single)) < 900


def test_wrong_words(saved: Callable[[str], Path]) -> None:
    path = saved("compvis")
    assert 'Did you mean "prefer"?' in refused(path, ema="prefers")
    assert 'Did you mean "epsilon"?' in refused(path, prediction="epsilons")
    assert "torch.float64" in refused(path, dtype=torch.float64)
    assert "no variant fp8" in refused(saved("diffusers"), variant="fp8")
    assert "holds no tokenizer" in refused(path, tokenizer=path.parent)


def test_no_pickle_is_involved(saved: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With everything that unpickles or starts programs poisoned, good models open and bad ones are refused."""
    open_model(saved("compvis"))  # whatever is loaded the first time

    def poison(*_: Any, **__: Any) -> Any:
        raise AssertionError("a poisoned function was called")

    for name in ("torch.load", "pickle.load", "pickle.loads", "pickle.Unpickler", "os.system", "subprocess.Popen"):
        monkeypatch.setattr(name, poison)
    monkeypatch.setattr("importlib.import_module", poison)
    for format in ("native", "diffusers", "compvis"):
        open_model(saved(format))
    for number, content in enumerate(CONTENTS):
        (tmp_path / f"{number}.ckpt").write_bytes(content)
        refused(tmp_path / f"{number}.ckpt")


HOSTILE = [
    "/etc/passwd",
    "../../../etc/passwd",
    "http://127.0.0.1:9/x",
    "os.system",
    "__import__('os')",
    "a/b",
    "hub:a/b",
]


def test_texts_in_documents_are_inert(folder: Path, watched: list[tuple[str, str]]) -> None:
    """Every text in every document replaced in turn: nothing is opened outside, imported, run or fetched."""
    documents = {str(path.relative_to(folder)): json.loads(path.read_text()) for path in folder.rglob("*.json")}
    del documents["tokenizer/vocab.json"], documents["tokenizer/tokenizer.json"]
    inspect(folder)  # whatever is loaded the first time
    watched.clear()
    tried = 0
    for name, document in documents.items():
        for key, value in document.items():
            texts = value if isinstance(value, list) else [value]
            if not any(isinstance(text, str) for text in texts):
                continue
            for hostile in HOSTILE:
                changed = document | {key: [hostile] * len(texts) if isinstance(value, list) else hostile}
                try:
                    if name == "model_index.json":
                        assembly.check_index(changed)
                    else:
                        assembly.family(documents | {name: changed}, "end")
                except UserError:
                    pass
                tried += 1
        (folder / name).write_text(json.dumps(changed))
        with contextlib.suppress(UserError):
            inspect(folder)
        (folder / name).write_text(json.dumps(document))
    assert tried > 100
    typed = ("compile", "exec")  # which the tests' own checks of annotations do, as inner functions are made
    outside = [entry for entry in watched if entry[0] != "open" or not entry[1].startswith(str(folder))]
    assert not [entry for entry in outside if entry[0] not in typed and not entry[1].isdecimal()], outside[:5]


def test_mutated_files_never_do_worse_than_a_user_error(single: Path) -> None:
    """A few hundred damaged heads of a real file: each opens, or is refused, and nothing else."""
    data = single.read_bytes()
    start = 8 + int.from_bytes(data[:8], "little")
    rng = random.Random(3)
    outcomes = {"good": 0, "refused": 0}
    for _ in range(60):
        head = bytearray(data[8:start])
        for _ in range(rng.randint(1, 4)):
            head[rng.randrange(len(head))] = rng.choice(b'0123456789",:[]{}aF')
        single.write_bytes(data[:8] + head + data[start:])
        try:
            inspect(single)
            outcomes["good"] += 1
        except UserError:
            outcomes["refused"] += 1
    assert outcomes["refused"] > 30
