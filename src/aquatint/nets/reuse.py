"""Deep features reused from step to step: DeepCache (Ma et al. 2023). An approximation, used only where asked for."""

from collections.abc import Callable
from typing import TypeAlias

from torch import Tensor

from aquatint.base.errors import UserError
from aquatint.nets.control import Controlled
from aquatint.nets.unet import UNet, UNetConfig

# By net and by what it was told: that context itself, so that its number stays its own, and the features.
Kept: TypeAlias = dict[tuple[int, int], tuple[Tensor, Tensor]]


def reusing(
    net: UNet | Controlled, skips: int, kept: Kept
) -> Callable[[Tensor, Tensor, Tensor, Tensor | None], Tensor]:
    """A net that computes what lies below its outermost `skips` skips only where `kept` has nothing from it.

    Neighbouring steps differ little there (Ma et al. 2023). What is kept is x on the way up before the cell
    that takes the last of these skips; they themselves and the cells that take them are computed always, and so is
    what controls add to them. At 1 that is the U-Net's first convolution and its last cell and no more.

    Features belong to the very tensor that the net is told as context, so that negative and prompt, and prompts that
    take turns, have each their own. Whoever holds `kept` empties it to have them computed anew; when, is not the net's
    business. While it is empty every answer is the net's own, to the last bit. UserError as `check_skips`.
    """
    whole = net if isinstance(net, Controlled) else Controlled(net)
    unet = whole.unet
    check_skips(unet.config, skips)

    def answer(x: Tensor, t: Tensor, context: Tensor, vector: Tensor | None = None) -> Tensor:
        key = id(whole), id(context)
        if key in kept:
            _, outer, time, heard = whole.down(x, t, context, vector, skips)
        else:
            y, outer, time, heard = whole.down(x, t, context, vector)
            kept[key] = context, unet.ascend(y, outer, time, heard, skips)
        return unet.head(unet.ascend(kept[key][1], outer, time, heard)).to(x.dtype)

    return answer


def check_skips(config: UNetConfig, skips: int) -> None:
    """UserError where a U-Net has no features below so many skips."""
    if not 0 < skips < config.skips:
        raise UserError(f"Deep features below {skips} skips.", f"1 to {config.skips - 1}, of this U-Net.")
