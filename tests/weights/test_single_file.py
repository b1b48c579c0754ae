"""Original single files without a word of ours: what family they are, what is left over, which weights are taken."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.weights.models import ODD, random_model, same_weights, single_file, sparse

from aquatint.base.errors import UserError
from aquatint.families import (
    SD15,
    SD15_INPAINT,
    SD15_LCM,
    SD15_PIX2PIX,
    SD21,
    SD21_DEPTH,
    SD21_INPAINT,
    SD21_V,
    SD_TURBO,
    SDXL,
    SDXL_INPAINT,
    SDXL_REFINER,
    Family,
)
from aquatint.nets.unet import Stage, UNetConfig
from aquatint.weights import Opened, compvis, inspect, open_model, save
from aquatint.weights.deduce import TELLTALE

ROWS = [SD15, SD15_INPAINT, SD15_PIX2PIX, SD15_LCM, SD21, SD21_INPAINT, SD21_DEPTH, SDXL, SDXL_INPAINT, SDXL_REFINER]
LARGE = {"SDXL": [1680, 248, 196, 389], "SDXL_INPAINT": [1680, 248, 196, 389], "SDXL_REFINER": [1220, 248, 389]}


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
@pytest.mark.parametrize("ema", [False, True])
def test_published_checkpoints_are_recognised(row: Family, ema: bool, tmp_path: Path) -> None:
    path = sparse(tmp_path / "model.safetensors", single_file(row, ema=ema, dtype=torch.float16))
    plan = inspect(path)
    assert plan.complete
    assert plan.family == row
    unet = 686 + bool(row.unet.guidance)
    assert [part.found for part in plan.parts] == LARGE.get(
        row.name, [unet, 248, 196 if row.text.layers == 12 else 280]
    )
    reasons = {reason: len(names) for reason, names in plan.left_over.items()}
    assert reasons["the noise schedule's table, which is computed here"] == 4 + bool(row.micro)
    assert reasons.get("averaged weights (EMA)", 0) == (plan.parts[0].found + 2 if ema else 0)
    assert plan.unexplained == ()
    assert path.stat().st_blocks * 512 < 2**20  # it was a sparse file, and nothing was read into being


def test_the_last_layer_of_open_clip_is_left_over(tmp_path: Path) -> None:
    rows = single_file(SD21)
    plan = inspect(sparse(tmp_path / "model.safetensors", rows))
    assert len(plan.left_over["the last text layer, which Stable Diffusion 2 does not use"]) == 12
    only = [row for row in rows if "resblocks.23" not in row.name and "text_projection" not in row.name]
    assert inspect(sparse(tmp_path / "without.safetensors", only)).family == SD21
    deeper = [row._replace(name=row.name.replace("s.23.", "s.24.")) for row in rows if "resblocks.23" in row.name]
    plan = inspect(sparse(tmp_path / "deeper.safetensors", [*rows, *deeper]))
    assert plan.complete
    assert plan.family == replace(SD21, name="custom", text=replace(SD21.text, layers=24))


def test_turbo_is_known_by_its_header_alone(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    for key, text in (("architecture", "stable-diffusion-v2-turbo"), ("title", "SD-Turbo")):
        plan = inspect(sparse(path, single_file(SD21), {f"modelspec.{key}": text}))
        assert plan.family == SD_TURBO
        assert "Turbo" in " ".join(plan.notes)
    assert inspect(sparse(path, single_file(SD15), {"modelspec.title": "Turbo"})).family == SD15
    assert inspect(sparse(path, single_file(SD21))).family == SD21


def test_a_depth_estimator_is_left_over(tmp_path: Path) -> None:
    rows = single_file(SD21_DEPTH)
    extra = [row._replace(name="depth_model.model.pretrained.model.cls_token") for row in rows if row.name == "betas"]
    plan = inspect(sparse(tmp_path / "model.safetensors", [*rows, *extra]))
    assert (plan.family, plan.complete) == (SD21_DEPTH, True)
    assert any("MiDaS" in reason for reason in plan.left_over)


def test_what_is_said_of_the_prediction_counts(tmp_path: Path) -> None:
    path = sparse(tmp_path / "model.safetensors", single_file(SD21))
    plan = inspect(path)
    assert plan.family == SD21
    assert "guess" in " ".join(plan.notes)
    assert inspect(path, prediction="v").family == SD21_V
    assert "guess" not in " ".join(inspect(path, prediction="v").notes)
    for metadata in (
        {"modelspec.prediction_type": "v"},
        {"modelspec.architecture": "stable-diffusion-v2-768-v"},
    ):
        assert inspect(sparse(path, single_file(SD21), metadata)).family == SD21_V
    mark = [row._replace(name="v_pred") for row in single_file(SD21) if row.name == "betas"]
    plan = inspect(sparse(path, [*single_file(SD21), *mark]))
    assert plan.family == SD21_V
    ends = [row._replace(name="ztsnr") for row in mark]
    plan = inspect(sparse(path, [*single_file(SD15), *mark, *ends]))
    assert plan.family.prediction == "v"
    assert plan.family.schedule.zero_terminal
    assert plan.family.name == "custom"
    assert inspect(sparse(path, single_file(SD15))).family.prediction == "epsilon"


def test_the_bias_that_tells_v_from_epsilon(tmp_path: Path) -> None:
    rows = single_file(SD21, dtype=torch.float32)
    path = sparse(tmp_path / "model.safetensors", rows)
    (row,) = [row for row in rows if row.name == TELLTALE]
    start, at = None, 0
    from aquatint.weights.store import TensorFile

    header = TensorFile(path).header
    start, at = header.start, header.entries[TELLTALE].begin
    for spread, family in ((0.05, SD21), (0.2, SD21_V)):
        with open(path, "r+b") as file:
            file.seek(start + at)
            values = torch.linspace(-1, 1, row.shape[0])
            file.write((values / values.std() * spread).numpy().tobytes())
        assert inspect(path).family == family


def test_kinds_of_stable_diffusion_xl(tmp_path: Path) -> None:
    """v and its schedule's end by their marks; another depth is "custom", by the rules; half a model is refused."""
    path, rows = tmp_path / "model.safetensors", single_file(SDXL)
    marks = [row._replace(name=name) for row in rows[-1:] for name in ("v_pred", "ztsnr")]
    plan = inspect(sparse(path, [*rows, *marks]))
    schedule = replace(SDXL.schedule, zero_terminal=True)
    assert plan.family == replace(SDXL, name="custom", prediction="v", schedule=schedule)
    assert not [note for note in plan.notes if "known family" in note]
    shallow = [row for row in rows if "middle_block.1.transformer_blocks.9." not in row.name]
    plan = inspect(sparse(path, shallow))
    assert plan.complete
    assert plan.family == replace(SDXL, name="custom", unet=replace(SDXL.unet, middle=9))
    lone = [row for row in rows if not row.name.startswith("conditioner.embedders.1.")]
    with pytest.raises(UserError, match="text encoder's width is 768"):
        inspect(sparse(path, lone))
    with pytest.raises(UserError, match="no text encoder"):
        inspect(sparse(path, [row for row in rows if not row.name.startswith("conditioner.")]))
    less = [row._replace(shape=(1280, 2000)) if row.name.endswith("label_emb.0.0.weight") else row for row in rows]
    with pytest.raises(UserError, match="the U-Net takes 2000"):
        inspect(sparse(path, less))
    with pytest.raises(UserError, match=r"nothing for 1: conditioner\.embedders\.1\.model\.ln_final\.bias"):
        open_model(sparse(path, [row for row in rows if not row.name.endswith("1.model.ln_final.bias")]))


ODD_XL = replace(
    ODD,
    unet=UNetConfig(
        stages=(Stage(64, 1, 0), Stage(128, 2, 2)), blocks=1, middle=2, context=192, vector=1632, linear=True
    ),
    text=replace(ODD.text, skip=1, normed=False),
    text2=replace(SDXL_REFINER.text, width=128, layers=2, heads=2, projection=96),
    autoencoder=replace(ODD.autoencoder, scale=0.13025),
    micro=SDXL.micro,
    blank=True,
    defaults=SDXL.defaults,
)
ODD21 = replace(
    ODD,
    unet=replace(ODD.unet, stages=(Stage(64, 1), Stage(128, 2)), linear=True),
    text=replace(ODD.text, activation="gelu", pad="zero"),
)


def stripped(model: Opened, path: Path) -> Path:
    """A single file of the model without metadata."""
    save(model, path, "compvis")
    save_file(load_file(path), path)
    return path


@pytest.mark.parametrize("family", [ODD, ODD21, ODD_XL], ids=["SD1's rules", "SD2's rules", "XL's rules"])
def test_unknown_widths_open_by_the_rules(family: Family, tmp_path: Path) -> None:
    model = random_model(family)
    again = open_model(stripped(model, tmp_path / "model.safetensors"))
    assert again.family == family
    assert same_weights(again, model)
    assert "no known family" in " ".join(again.notes)
    assert again.tokenizer.vocabulary == 49408


def test_averaged_weights_are_taken_when_asked_for(tmp_path: Path) -> None:
    model = random_model(ODD)
    path = stripped(model, tmp_path / "model.safetensors")
    assert "no averaged weights" in " ".join(open_model(path, ema="prefer").notes)
    tensors = load_file(path)
    averages = {compvis.averaged(name): value + 1 for name, value in tensors.items() if name.startswith(compvis.UNET)}
    save_file(tensors | averages | {"model_ema.decay": torch.tensor(0.9999)}, path)
    plain, averaged = open_model(path), open_model(path, ema="prefer")
    assert same_weights(plain, model)
    assert torch.equal(averaged.unet.enter.weight, model.unet.enter.weight + 1)
    assert torch.equal(averaged.text.words.weight, model.text.words.weight)
    assert plain.digest != averaged.digest
    assert "averaged weights (EMA) are taken" in " ".join(averaged.notes)
    reasons = inspect(path, ema="prefer").left_over
    assert len(reasons["ordinary weights, whose average was taken"]) == len(averages)
    shutil.copy(path, tmp_path / "partly.safetensors")
    averages.popitem()
    save_file(tensors | averages, path)
    with pytest.raises(UserError, match=r"nothing for 1: model_ema\.diffusion_model"):
        open_model(path, ema="prefer")


def test_other_spellings_of_the_same_file(tmp_path: Path) -> None:
    """The text encoder without `text_model.`, and the autoencoder's attention as linear layers."""
    model = random_model(ODD)
    path = stripped(model, tmp_path / "model.safetensors")
    tensors = {
        name.replace("transformer.text_model.", "transformer."): value for name, value in load_file(path).items()
    }
    for name in [name for name in tensors if ".mid.attn_1." in name and name.endswith("weight") and "norm" not in name]:
        assert tensors[name].ndim == 4
        tensors[name] = tensors[name][:, :, 0, 0].contiguous()
    tensors["cond_stage_model.transformer.embeddings.position_ids"] = torch.arange(77.0)[None]
    save_file(tensors, path)
    again = open_model(path)
    assert same_weights(again, model)
    assert again.digest == open_model(save(model, tmp_path / "other.safetensors", "compvis")).digest
    swapped = tensors | {"cond_stage_model.transformer.text_model.embeddings.token_embedding.weight": torch.zeros(1)}
    save_file(swapped, path)
    with pytest.raises(UserError):
        open_model(path)


def test_badly_aligned_tensors_are_read(tmp_path: Path) -> None:
    """A head whose length is no multiple of 8, as some programs write it: tensors begin at odd bytes."""
    model = random_model(ODD)
    path = stripped(model, tmp_path / "model.safetensors")
    data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    path.write_bytes((length + 3).to_bytes(8, "little") + data[8 : 8 + length] + b"   " + data[8 + length :])
    assert same_weights(open_model(path), model)
