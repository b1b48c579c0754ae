"""Small random models of every family, for tests to save, damage and open."""

from dataclasses import replace

import torch

from aquatint.families import FAMILIES, POCKET, SD15, SD15_INPAINT, SD21, SD21_V, TINY, Family
from aquatint.nets.autoencoder import Autoencoder
from aquatint.nets.text import TextEncoder
from aquatint.nets.tokenizer import Tokenizer
from aquatint.nets.unet import Stage, UNet
from aquatint.weights import Opened

VOCABULARY = 600


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


SMALL = {row.name: narrow(row) for row in (SD15, SD15_INPAINT, SD21, SD21_V)} | {"TINY": TINY}
# The pocket model's own traits (no norms in the autoencoder, another decoder, a projection) in fewer numbers.
POCKET_SMALL = replace(
    POCKET,
    unet=replace(POCKET.unet, stages=(Stage(16, 2), Stage(32, 4), Stage(48, 6)), context=32),
    autoencoder=replace(POCKET.autoencoder, encoder=(4, 8, 16), decoder=(6, 8, 12)),
    text=replace(POCKET.text, width=32, projection=48),
)
EVERY = SMALL | {"POCKET": POCKET_SMALL}


def random_model(family: Family, seed: int = 0) -> Opened:
    """A model with random weights, biases included, and a tokenizer of the right size."""
    generator = torch.Generator().manual_seed(seed)
    nets = UNet(family.unet), Autoencoder(family.autoencoder), TextEncoder(family.text)
    for net in nets:
        for tensor in net.state_dict().values():
            tensor.copy_(torch.randn(tensor.shape, generator=generator) * 0.05)
        net.eval().requires_grad_(False)
    if family.text.vocabulary == FAMILIES["SD15"].text.vocabulary:
        words = Tokenizer.packaged(pad=family.text.pad)
    else:
        words = Tokenizer.train(["a red cat", "two blue circles"], family.text.vocabulary, pad=family.text.pad)
    return Opened(family, *nets, words, family.name.lower(), "")


def same_weights(one: Opened, two: Opened) -> bool:
    """Whether the three nets are equal, bit for bit, in names, formats and values."""
    for part in ("unet", "autoencoder", "text"):
        a, b = getattr(one, part).state_dict(), getattr(two, part).state_dict()
        if list(a) != list(b):
            return False
        if not all(a[name].dtype == b[name].dtype and torch.equal(a[name], b[name]) for name in a):
            return False
    return True
