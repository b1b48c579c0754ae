"""Small random models of every family, for tests to save, damage and open."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch

from aquatint.base.counted import Counted
from aquatint.families import (
    FAMILIES,
    POCKET,
    SD15,
    SD15_INPAINT,
    SD15_LCM,
    SD15_PIX2PIX,
    SD21,
    SD21_DEPTH,
    SD21_V,
    SDXL,
    SDXL_INPAINT,
    SDXL_REFINER,
    TINY,
    TINY_XL,
    Family,
)
from aquatint.nets.autoencoder import Autoencoder
from aquatint.nets.text import TextEncoder
from aquatint.nets.tokenizer import Tokenizer
from aquatint.nets.unet import Stage, UNet
from aquatint.weights import Opened, compvis, writer
from aquatint.weights.keymap import config_of, parts_of, shapes
from aquatint.weights.writer import Outgoing

VOCABULARY = 600
KINDS = SD15_PIX2PIX, SD15_LCM, SD21_DEPTH


def narrow(family: Family) -> Family:
    """The family with the same blocks, depths and spellings, and widths of a few numbers."""
    count = len(family.unet.stages)
    stages = tuple(
        Stage(16 * (1 + min(i, 2)), 2 + 2 * (i > 0), stage.depth) for i, stage in enumerate(family.unet.stages)
    )
    widths = (8, 8, 16, 16)[:count] if count == 4 else (8, 8, 16)
    groups = min(family.autoencoder.groups, 4)
    return replace(
        family,
        name="custom",
        unet=replace(family.unet, stages=stages, context=24, groups=8),
        autoencoder=replace(family.autoencoder, encoder=widths, decoder=widths, groups=groups),
        text=replace(family.text, width=24, layers=2, heads=2, vocabulary=VOCABULARY, feed=2),
        defaults=replace(family.defaults, width=64, height=64),
    )


def narrow_xl(family: Family) -> Family:
    """`narrow` for Stable Diffusion XL: its encoders' widths together are the U-Net's, pooled text is 12 numbers."""
    made = narrow(replace(family, text2=None, micro=()))
    large = replace(SDXL_REFINER.text, width=16, layers=3, heads=2, vocabulary=VOCABULARY, feed=2, projection=12)
    both = {"text": made.text, "text2": large} if family.text2 else {"text": large}
    context = sum(text.width for text in both.values())
    unet = replace(made.unet, context=context, vector=12 + family.unet.vector - 1280, middle=family.unet.middle % 4 + 1)
    stages = tuple(replace(stage, depth=min(stage.depth, unet.middle)) for stage in unet.stages)
    last = replace(stages[-1], depth=unet.middle if stages[-1].depth else 0)
    return replace(made, **both, unet=replace(unet, stages=(*stages[:-1], last)), micro=family.micro)  # type: ignore[arg-type]


SMALL = {row.name: narrow(row) for row in (SD15, SD15_INPAINT, *KINDS, SD21, SD21_V)}
SMALL |= {row.name: narrow_xl(row) for row in (SDXL, SDXL_INPAINT, SDXL_REFINER)} | {"TINY": TINY, "TINY_XL": TINY_XL}
# The pocket model's own traits (no norms in the autoencoder, another decoder, a projection) in fewer numbers.
POCKET_SMALL = replace(
    POCKET,
    unet=replace(POCKET.unet, stages=(Stage(16, 2), Stage(32, 4), Stage(48, 6)), context=32),
    autoencoder=replace(POCKET.autoencoder, encoder=(4, 8, 16), decoder=(6, 8, 12)),
    text=replace(POCKET.text, width=32, projection=48),
)
# Widths from which shapes alone lead to the same family: 32 groups, 8 heads, 64 numbers a head in the text encoder.
ODD = replace(
    SD15,
    name="custom",
    unet=replace(SD15.unet, stages=(Stage(64, 8), Stage(128, 8, depth=0)), blocks=1, context=64),
    autoencoder=replace(SD15.autoencoder, encoder=(32, 64), decoder=(32, 64), blocks=1),
    text=replace(SD15.text, width=64, layers=2, heads=1),
)
EVERY = SMALL | {"POCKET": POCKET_SMALL}


def random_model(family: Family, seed: int = 0) -> Opened:
    """A model with random weights, biases included, and a tokenizer of the right size."""
    generator = torch.Generator().manual_seed(seed)
    nets = UNet(family.unet), Autoencoder(family.autoencoder), TextEncoder(family.text)
    text2 = TextEncoder(family.text2) if family.text2 else None
    for net in (*nets, *([text2] if text2 else [])):
        for tensor in net.state_dict().values():
            tensor.copy_(torch.randn(tensor.shape, generator=generator) * 0.05)
        net.eval().requires_grad_(False)
    if family.text.vocabulary == FAMILIES["SD15"].text.vocabulary:
        words = Tokenizer.packaged(pad=family.text.pad)
    else:
        words = Tokenizer.train(["a red cat", "two blue circles"], family.text.vocabulary, pad=family.text.pad)
    words2 = Tokenizer(words.merges, pad=family.text2.pad) if family.text2 else None
    return Opened(family, *nets, words, family.name.lower(), Counted(), text2=text2, tokenizer2=words2)


def same_weights(one: Opened, two: Opened) -> bool:
    """Whether the nets are equal, bit for bit, in names, formats and values."""
    if one.nets.keys() != two.nets.keys():
        return False
    for part in one.nets:
        a, b = one.nets[part].state_dict(), two.nets[part].state_dict()
        if list(a) != list(b):
            return False
        if not all(a[name].dtype == b[name].dtype and torch.equal(a[name], b[name]) for name in a):
            return False
    return True


def single_file(family: Family, *, ema: bool = False, dtype: torch.dtype = torch.float32) -> list[Outgoing]:
    """The tensors of an original single file for a family, as published: with all that trainers leave in it."""
    rows = {}
    for part in parts_of(family):
        ours = shapes(config_of(family, part))
        for pair in compvis.pairs(config_of(family, part), text=compvis.conditioner(family, part)):
            rows[pair.theirs] = pair.turn.shapes([ours[name] for name in pair.ours])[0]
    rows |= {"betas": (1000,), "alphas_cumprod": (1000,), "sqrt_recipm1_alphas_cumprod": (1000,), "logvar": (1000,)}
    if family.micro:
        rows |= {f"{compvis.conditioner(family, part)}logit_scale": () for part in parts_of(family)[-1:]}
        rows["denoiser.sigmas"] = (1000,)
        if family.text2:
            rows[compvis.conditioner(family, "text") + "embeddings.position_ids"] = (1, 77)
    elif family.text.activation == "gelu":
        last = f"{compvis.OPEN_CLIP}transformer.resblocks.{family.text.layers}."
        rows |= {
            last + name.rpartition("resblocks.0.")[2]: shape for name, shape in rows.items() if "resblocks.0." in name
        }
        rows |= {compvis.OPEN_CLIP + "text_projection": (family.text.width,) * 2, compvis.OPEN_CLIP + "logit_scale": ()}
    else:
        rows[compvis.HUGGING + "embeddings.position_ids"] = (1, 77)
    if ema:
        rows |= {compvis.averaged(name): shape for name, shape in rows.items() if name.startswith(compvis.UNET)}
        rows |= {"model_ema.decay": (), "model_ema.num_updates": ()}
    return [Outgoing(name, dtype, shape, lambda shape=shape: torch.zeros(shape)) for name, shape in rows.items()]  # type: ignore[misc]


def sparse(path: Path, tensors: list[Outgoing], metadata: Mapping[str, str] | None = None) -> Path:
    """A file of any size with a true head and no bytes on the disk behind it: every weight is 0."""
    with open(path, "wb") as file:
        head = writer.head(tensors, metadata or {})
        file.write(head)
        file.truncate(len(head) + sum(tensor.size for tensor in tensors))
    return path
