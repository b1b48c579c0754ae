"""Key maps: which tensors of ours are which tensor of theirs, as one list of pairs that is read both ways.

A format walks a net's config as its forward pass does and yields places (where a block is, in our names and theirs);
each kind of block has a small table of parts. Places times parts make the pairs: Stable Diffusion 1.5's U-Net has 686.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from aquatint.families import Family
from aquatint.nets.autoencoder import Autoencoder, AutoencoderConfig
from aquatint.nets.text import TextConfig, TextEncoder
from aquatint.nets.unet import UNet, UNetConfig

Shape = tuple[int, ...]
Config = UNetConfig | AutoencoderConfig | TextConfig


@dataclass(frozen=True)
class Turn:
    """How the tensors of ours become the one of theirs, and back, without changing a number.

    shapes   theirs, from ours: the one that we write first, then others that we read
    """

    name: str
    give: Callable[[Sequence[Tensor]], Tensor]
    take: Callable[[Tensor], Sequence[Tensor]]
    shapes: Callable[[Sequence[Shape]], tuple[Shape, ...]]


SAME = Turn("same", lambda ours: ours[0], lambda theirs: (theirs,), lambda shapes: (shapes[0],))

# A 1x1 convolution over pixels is a linear map of each; some files store the first, some the second.
SQUARE = Turn(
    "square",
    lambda ours: ours[0][..., None, None] if ours[0].ndim == 2 else ours[0],
    lambda theirs: (theirs.flatten(1) if theirs.ndim == 4 else theirs,),
    lambda shapes: ((*shapes[0], 1, 1), shapes[0]) if len(shapes[0]) == 2 else (shapes[0],),
)
FLAT = Turn(
    "flat",
    lambda ours: ours[0],
    lambda theirs: (theirs.flatten(1) if theirs.ndim == 4 else theirs,),
    lambda shapes: (shapes[0], (*shapes[0], 1, 1)) if len(shapes[0]) == 2 else (shapes[0],),
)

# torch's own MultiheadAttention keeps the projections of queries, keys and values below one another.
STACKED = Turn(
    "stacked",
    lambda ours: torch.cat(list(ours)),
    lambda theirs: theirs.chunk(3),
    lambda shapes: ((sum(shape[0] for shape in shapes), *shapes[0][1:]),),
)

# A bare parameter that is multiplied from the right, where a linear layer keeps its transpose.
TURNED = Turn(
    "turned",
    lambda ours: ours[0].T.contiguous(),
    lambda theirs: (theirs.T.contiguous(),),
    lambda shapes: ((shapes[0][1], shapes[0][0]),),
)


class Pair(NamedTuple):
    """One tensor of theirs, and the tensors of ours (three where theirs is fused) that it is made of."""

    ours: tuple[str, ...]
    theirs: str
    turn: Turn


class Part(NamedTuple):
    """A layer of a block: our names, theirs, how they turn. `*` stands for weight or bias, whichever the layer has."""

    ours: str | tuple[str, ...]
    theirs: str
    turn: Turn = SAME


class Place(NamedTuple):
    """Where in the net a block is: our prefix, their prefix, and the block's table."""

    ours: str
    theirs: str
    parts: Sequence[Part]


ITSELF = (Part("*", "*"),)  # a place that is a single layer


def pairs(places: Iterable[Place], shapes: Mapping[str, Shape]) -> list[Pair]:
    """Places times parts: a pair for every tensor that our net has; asserts that each is claimed exactly once."""
    made: list[Pair] = []
    claimed: list[str] = []
    for place in places:
        for part in place.parts:
            inner = (part.ours,) if isinstance(part.ours, str) else part.ours
            for leaf in ("weight", "bias") if "*" in inner[0] else ("",):
                ours = tuple(_joined(place.ours, name.replace("*", leaf)) for name in inner)
                if ours[0] in shapes:
                    made.append(Pair(ours, _joined(place.theirs, part.theirs.replace("*", leaf)), part.turn))
                    claimed += ours
    assert sorted(claimed) == sorted(shapes), sorted(set(claimed) ^ set(shapes))[:5]
    return made


def to_theirs(pairs: Iterable[Pair], ours: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A state dict of ours in their names and shapes; views wherever the turn allows it."""
    return {pair.theirs: pair.turn.give([ours[name] for name in pair.ours]) for pair in pairs}


def from_theirs(pairs: Iterable[Pair], theirs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A state dict of theirs in our names and shapes; what the pairs do not name is left out."""
    return {
        name: tensor
        for pair in pairs
        for name, tensor in zip(pair.ours, pair.turn.take(theirs[pair.theirs]), strict=True)
    }


def config_of(family: Family, part: str) -> Config:
    """The config of one of the family's parts."""
    configs: dict[str, Config] = {"unet": family.unet, "autoencoder": family.autoencoder, "text": family.text}
    return configs[part] if family.text2 is None else (configs | {"text2": family.text2})[part]


def parts_of(family: Family) -> tuple[str, ...]:
    """PARTS, and "text2" where the family has a second text encoder."""
    return PARTS if family.text2 is None else (*PARTS, "text2")


class _Unfilled(TorchFunctionMode):
    """Leaves out the filling of new weights with random numbers.

    On the meta device there is nothing to fill, and asking for normal numbers there makes torch import its compiler,
    which takes 2.5 seconds.
    """

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func in _FILLING:
            return args[0] if args else kwargs["tensor"]
        return func(*args, **kwargs)


_FILLING = (Tensor.normal_, Tensor.uniform_, nn.init.normal_, nn.init.uniform_, nn.init.kaiming_uniform_)


def empty(config: Config) -> nn.Module:
    """The net for a config, on torch's meta device: shapes and no memory."""
    with torch.device("meta"), _Unfilled():
        if isinstance(config, UNetConfig):
            return UNet(config)
        return Autoencoder(config) if isinstance(config, AutoencoderConfig) else TextEncoder(config)


def hollow(make: Callable[[], nn.Module]) -> nn.Module:
    """As `empty`, for any other net that `make` makes."""
    with torch.device("meta"), _Unfilled():
        return make()


@lru_cache(maxsize=64)
def shapes(config: Config) -> Mapping[str, Shape]:
    """Our names and shapes of a net's tensors, in the order of its definition."""
    return {name: tuple(tensor.shape) for name, tensor in empty(config).state_dict().items()}


def transformer(ours: str, theirs: str, depth: int, outer: Sequence[Part], layer: Sequence[Part]) -> Iterator[Place]:
    """The places of a Transformer2d: its own layers, then each of its `depth` transformer layers."""
    if depth:
        yield Place(ours, theirs, outer)
        for index in range(depth):
            yield Place(f"{ours}.layers.{index}", f"{theirs}.transformer_blocks.{index}", layer)


def _joined(prefix: str, name: str) -> str:
    return f"{prefix}.{name}" if prefix and name and not prefix.endswith(".") else prefix + name


PARTS = ("unet", "autoencoder", "text")
WORDS = {"unet": "U-Net", "autoencoder": "autoencoder", "text": "text encoder", "text2": "second text encoder"}

# The transformer's tables are the same in both layouts; so is where they came from (CompVis's latent-diffusion).
TRANSFORMER = (
    Part("norm.*", "norm.*"),
    Part("enter.*", "proj_in.*"),
    Part("leave.*", "proj_out.*"),
)
TRANSFORMER_LAYER = (
    Part("norm1.*", "norm1.*"),
    Part("among.q.*", "attn1.to_q.*"),
    Part("among.k.*", "attn1.to_k.*"),
    Part("among.v.*", "attn1.to_v.*"),
    Part("among.out.*", "attn1.to_out.0.*"),
    Part("norm2.*", "norm2.*"),
    Part("across.q.*", "attn2.to_q.*"),
    Part("across.k.*", "attn2.to_k.*"),
    Part("across.v.*", "attn2.to_v.*"),
    Part("across.out.*", "attn2.to_out.0.*"),
    Part("norm3.*", "norm3.*"),
    Part("feed.enter.*", "ff.net.0.proj.*"),
    Part("feed.leave.*", "ff.net.2.*"),
)
