"""Several prompts in one picture: side by side, or one after the other."""

from collections.abc import Callable, Sequence
from typing import TypeVar

from aquatint.diffusion.denoisers import (
    Answers,
    Asking,
    Conditioning,
    Denoiser,
    Net,
    Pair,
    ask,
    first,
    judged,
    rescaled,
    scaled,
)
from aquatint.diffusion.prediction import Prediction
from aquatint.diffusion.schedule import Latents, Level

Answer = TypeVar("Answer")


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

    return first(composed_pair(net, prediction, conds, negative, scale, rescale))


def composed_pair(
    net: Net,
    prediction: Prediction,
    conds: Sequence[tuple[float, Conditioning]],
    negative: Conditioning,
    scale: float,
    rescale: float = 0.0,
) -> Pair:
    """What `composed` says, and the negative's own x0 beside it."""

    return judged(severally(net, conds, negative), rescaled(scaled(scale), rescale), prediction)


def severally(net: Net, conds: Sequence[tuple[float, Conditioning]], negative: Conditioning) -> Asking:
    """The negative and then each prompt, each in a batch of its own; told is the weighted sum of what they add."""

    def answers(x: Latents, level: Level) -> Answers:
        away = ask(net, x, level, negative)
        each = tuple(ask(net, x, level, cond) for _, cond in conds)
        told = sum((weight * (out - away) for (weight, _), out in zip(conds, each, strict=True)), 0 * away)
        return Answers(away, told, away + told, each)

    return answers


def switched(parts: Sequence[tuple[Level, Callable[[Latents, Level], Answer]]]) -> Callable[[Latents, Level], Answer]:
    """One denoiser (or pair) after the other: each until the level beside it is reached, the last to the end.

    Levels are those of sampling, from noise to clean; a level at an end belongs to the denoiser after it, and so does
    what a sampler asks beyond it within its step.
    """

    def denoise(x: Latents, level: Level) -> Answer:
        for end, part in parts[:-1]:
            if level.ratio > end.ratio:
                return part(x, level)
        return parts[-1][1](x, level)

    return denoise


def wrapped(wrap: Callable[[Denoiser], Denoiser], pair: Pair) -> Pair:
    """A wrapper of denoisers round both halves of a pair, which is still asked once."""

    def both(x: Latents, level: Level) -> tuple[Latents, Latents]:
        heard: list[Latents] = []

        def toward(x: Latents, level: Level) -> Latents:
            x0, away = pair(x, level)
            heard.append(away)
            return x0

        return wrap(toward)(x, level), wrap(lambda x, level: heard[-1])(x, level)

    return both
