"""Several prompts in one picture: side by side, or one after the other."""

from collections.abc import Sequence

from aquatint.diffusion.denoisers import Conditioning, Denoiser, Net, ask, spread
from aquatint.diffusion.prediction import Prediction
from aquatint.diffusion.schedule import Latents, Level


def composed(
    net: Net,
    prediction: Prediction,
    conds: Sequence[tuple[float, Conditioning]],
    negative: Conditioning,
    scale: float,
    rescale: float = 0.0,
) -> Denoiser:
    """out = out_negative + scale * sum of weight_i * (out_i - out_negative): composable diffusion (Liu et al. 2022).

    A weight below zero leads away from its prompt. The prompts are asked one by one, each in a batch of its own.
    rescale is guided's, measured against out_negative + sum of weight_i * (out_i - out_negative).
    """

    def denoise(x: Latents, level: Level) -> Latents:
        away = ask(net, x, level, negative)
        told = sum((weight * (ask(net, x, level, cond) - away) for weight, cond in conds), 0 * away)
        out = away + scale * told
        if rescale:
            out = out * (rescale * spread(away + told) / spread(out) + (1 - rescale))
        return prediction.to_x0(x, out, level)

    return denoise


def switched(parts: Sequence[tuple[Level, Denoiser]]) -> Denoiser:
    """One denoiser after the other: each until the level beside it is reached, the last to the end.

    Levels are those of sampling, from noise to clean; a level at an end belongs to the denoiser after it, and so does
    what a sampler asks beyond it within its step.
    """

    def denoise(x: Latents, level: Level) -> Latents:
        for end, part in parts[:-1]:
            if level.ratio > end.ratio:
                return part(x, level)
        return parts[-1][1](x, level)

    return denoise
