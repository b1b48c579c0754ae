"""aquatint: a complete Stable Diffusion on PyTorch.

    bundle = aquatint.load()                                   # the pocket model; or a path, a file, a hub id
    picture = bundle.paint("a cat under a rainbow", seed=7)    # .image, .save(), shows itself in a notebook
    for progress in aquatint.generate(bundle, aquatint.Request("a red apple", seeds=(1, 2, 3))): ...

Importing this does not import torch: each name below is fetched when it is first used.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from aquatint.base.errors import UserError
    from aquatint.diffusion.grids import GRIDS
    from aquatint.diffusion.samplers import SAMPLERS
    from aquatint.families import FAMILIES
    from aquatint.pipelines.bundle import Bundle, load, save
    from aquatint.pipelines.control import Control
    from aquatint.pipelines.edit import Edit, Outpaint
    from aquatint.pipelines.generate import generate
    from aquatint.pipelines.given import given
    from aquatint.pipelines.hires import Hires
    from aquatint.pipelines.picture import Picture, Progress
    from aquatint.pipelines.request import Request
    from aquatint.pipelines.tiling import Decoding, Tiling
    from aquatint.pipelines.variation import Variation

__version__ = "0.1.0"
__all__ = [
    "FAMILIES",
    "GRIDS",
    "SAMPLERS",
    "Bundle",
    "Control",
    "Decoding",
    "Edit",
    "Hires",
    "Outpaint",
    "Picture",
    "Progress",
    "Request",
    "Tiling",
    "UserError",
    "Variation",
    "__version__",
    "generate",
    "given",
    "load",
    "save",
]

_HOMES = {
    "UserError": "base.errors",
    "GRIDS": "diffusion.grids",
    "SAMPLERS": "diffusion.samplers",
    "FAMILIES": "families",
    "Bundle": "pipelines.bundle",
    "load": "pipelines.bundle",
    "save": "pipelines.bundle",
    "Control": "pipelines.control",
    "Edit": "pipelines.edit",
    "Outpaint": "pipelines.edit",
    "given": "pipelines.given",
    "Decoding": "pipelines.tiling",
    "Hires": "pipelines.hires",
    "Tiling": "pipelines.tiling",
    "Variation": "pipelines.variation",
    "generate": "pipelines.generate",
    "Picture": "pipelines.picture",
    "Progress": "pipelines.picture",
    "Request": "pipelines.request",
}


def __getattr__(name: str) -> Any:
    """A public name, from the module where it lives (PEP 562)."""
    if name not in _HOMES:
        raise AttributeError(f"module 'aquatint' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"aquatint.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
