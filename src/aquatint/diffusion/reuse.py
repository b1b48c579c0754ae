"""When nets that keep things from step to step forget them; a step is a stretch of levels, however often asked."""

from collections.abc import Callable, Sequence

from aquatint.diffusion.denoisers import Pair
from aquatint.diffusion.schedule import Latents, Level


def renewed(pair: Pair, levels: Sequence[Level], every: int, forget: Callable[[], None]) -> Pair:
    """The pair, whose nets forget what they kept in every step whose number is a multiple of `every`, from 0.

    Levels are those of sampling, from noise to clean. A step is the stretch from one of them down to the next, without
    the latter: what a sampler asks at points between belongs to the step, and what it asks ahead or a second time to
    the step of that level. In a step in which they forget they do so before each call, so that at 1 nothing is ever
    kept; and besides where the path comes from another `every` steps: at its beginning, and going back to noise.
    """
    ratios, last = [float(level.ratio) for level in levels[:-1]], -1

    def both(x: Latents, level: Level) -> tuple[Latents, Latents]:
        nonlocal last
        ratio = float(level.ratio)
        stretch, within = divmod(max(sum(above >= ratio for above in ratios) - 1, 0), every)
        if stretch != last or not within:
            forget()
        last = stretch
        return pair(x, level)

    return both
