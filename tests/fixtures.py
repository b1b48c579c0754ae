"""A whole system with random weights, small enough to paint in milliseconds."""

from dataclasses import replace

import torch

from aquatint.base.counted import Counted
from aquatint.families import TINY, Family
from aquatint.nets.autoencoder import Autoencoder
from aquatint.nets.text import TextEncoder
from aquatint.nets.tokenizer import Tokenizer
from aquatint.nets.unet import UNet
from aquatint.pipelines.bundle import Bundle
from aquatint.pipelines.vocabulary import Vocabulary

WORDS = ("a red apple on a blue background", "two cats", "in the snow", "at night")


def tiny_bundle(family: Family = TINY, *, seed: int = 0, vocabulary: Vocabulary | None = None) -> Bundle:
    """TINY (or a family like it) with weights drawn from `seed`; different seeds give different digests."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        unet, autoencoder, text = UNet(family.unet), Autoencoder(family.autoencoder), TextEncoder(family.text)
        text2 = TextEncoder(family.text2) if family.text2 else None
    return Bundle(
        unet=unet.eval(),
        autoencoder=autoencoder.eval(),
        text=text.eval(),
        tokenizer=Tokenizer.train(WORDS, family.text.vocabulary, pad=family.text.pad),
        family=family,
        name="tiny",
        counted=Counted(f"{seed:064x}"),
        threads=1,  # two threads on a busy machine wait for each other at every small operation
        vocabulary=vocabulary,
        text2=text2.eval() if text2 else None,
        tokenizer2=Tokenizer.train(WORDS, family.text2.vocabulary, pad=family.text2.pad) if family.text2 else None,
    )


def tiny_with(**changes: object) -> Family:
    """TINY with some of its fields replaced."""
    return replace(TINY, **changes)  # type: ignore[arg-type]
