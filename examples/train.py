"""The training loop on the smallest thing there is: TINY's U-Net learns four latents by heart."""

from pathlib import Path
from tempfile import mkdtemp

from aquatint.base.noise import Noise
from aquatint.diffusion.schedule import NoiseSchedule
from aquatint.families import TINY
from aquatint.nets.text import TextEncoder
from aquatint.nets.unet import UNet
from aquatint.training.loop import train
from aquatint.training.objectives.diffusion import Aim, Denoising
from aquatint.training.recipe import Length, Optim, Recipe
from aquatint.training.start import start

unet, text = UNet(TINY.unet), TextEncoder(TINY.text)
start(unet, seed=1)
start(text, seed=2)
latents = Noise([5] * 4, range(4)).normal((4, 8, 8))
ids = Noise([5] * 4, range(4)).integers((77,), 1000, draw=1)
recipe = Recipe(
    name="by heart",
    seed=5,
    objective=Denoising(unet, text, NoiseSchedule(TINY.schedule), Aim("epsilon")),
    batch=lambda moment, share: {"latents": latents, "ids": ids},
    length=Length(steps=40),
    optim={"unet": Optim(lr=3e-3, warmup=5)},
    batch_size=4,
    log_steps=10,
)
train(recipe, Path(mkdtemp()))
