"""What a bundle has besides its model to make pictures larger, or quicker: upscalers and a tiny autoencoder."""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image
from torch import Tensor

from aquatint.base import images
from aquatint.base.errors import UserError, unknown
from aquatint.nets.seamless import seamless
from aquatint.nets.tiled_autoencoder import decode_tiled, encode_tiled
from aquatint.nets.tiles import by_tiles
from aquatint.nets.upscaler import Upscaler
from aquatint.pipelines.enlarge import FILTERS, WAYS, cut, latents_to, picture_to
from aquatint.pipelines.record import File
from aquatint.pipelines.shelf import name_of
from aquatint.pipelines.tiling import Decoding
from aquatint.weights.tiny import Tiny, open_tiny
from aquatint.weights.upscalers import open_upscaler

if TYPE_CHECKING:
    from aquatint.pipelines.bundle import Bundle
    from aquatint.pipelines.hires import Hires
    from aquatint.pipelines.request import Request, Resolved


def with_tools(
    bundle: "Bundle", upscalers: Iterable[str | Path] | Mapping[str, Path] = (), tiny: str | Path | None = None
) -> "Bundle":
    """The bundle with upscalers that requests may name, and a tiny autoencoder.

    Upscalers, paths or {name: path}, are opened when they are used. UserError for a path that leads nowhere, two files
    of one name, and a tiny autoencoder of other latents.
    """
    found: dict[str, Path] = dict(bundle.upscalers)
    named = upscalers.items() if isinstance(upscalers, Mapping) else ((name_of(Path(p)), Path(p)) for p in upscalers)
    for name, given in named:
        path = given.expanduser()
        if not path.is_file():
            raise UserError(f'There is no file "{str(path)[:200]}".', "An upscaler.", "Check the path.")
        if name in {*WAYS, *FILTERS} or found.setdefault(name, path) != path:
            raise UserError(f'The name "{name}" is taken.', "A name of its own for each upscaler.", "Rename it.")
    return replace(bundle, upscalers=found, tiny=bundle.tiny if tiny is None else _fitting(bundle, tiny))


def upscaler_of(bundle: "Bundle", request: "Request") -> str | Upscaler:
    """What a request's hires enlarges with: a name in WAYS or FILTERS, or the net in one of the bundle's files."""
    name = request.hires.upscaler if request.hires else "latent"
    if name in WAYS or name in FILTERS:
        return name
    if name not in bundle.upscalers:
        error = unknown("upscaler", name, {*WAYS, *FILTERS, *bundle.upscalers})
        remedy = "Give its file (load(upscalers=[...]), --upscaler FILE)."
        raise UserError(error.got, error.takes, error.remedy or remedy)
    opened = open_upscaler(bundle.upscalers[name], bundle.dtype)
    bundle.engine.prepare(opened.net.to(bundle.device))
    return Upscaler(opened.net, name, opened.digest)


def tools_of(bundle: "Bundle", request: "Request", upscaler: str | Upscaler) -> tuple[File, ...]:
    """The files that a request uses of these, for its record; UserError for one that is not there."""
    made = [] if isinstance(upscaler, str) else [File("upscaler", upscaler.name, upscaler.digest, upscaler.digest)]
    if request.decoding is not None and request.decoding.tiny:
        tiny = bundle.tiny
        if tiny is None:
            raise UserError(
                "decoding tiny, and no tiny autoencoder.",
                "A bundle that was opened with one.",
                "load(tiny=FILE), --tiny FILE.",
            )
        made.append(File("tiny", tiny.name, tiny.digest, tiny.digest))
    return tuple(made)


def around(request: "Request") -> tuple[bool, bool]:
    """Whether the picture's edges meet: top and bottom, left and right."""
    return request.seamless in ("y", "both"), request.seamless in ("x", "both")


def tileable(bundle: "Bundle", meets: tuple[bool, bool]) -> "Bundle":
    """The bundle with nets whose pictures meet at these edges, over the same weights."""
    if not any(meets):
        return bundle
    tiny = bundle.tiny and replace(bundle.tiny, net=seamless(bundle.tiny.net, *meets))
    nets: dict[str, Any] = {name: seamless(getattr(bundle, name), *meets) for name in ("unet", "autoencoder")}
    controls = {name: row._replace(net=seamless(row.net, *meets)) for name, row in bundle.controls.nets.items()}
    for net in (nets["unet"], nets["autoencoder"], *(row.net for row in controls.values())):
        bundle.engine.prepare(net)
    return replace(bundle, tiny=tiny, controls=replace(bundle.controls, nets=controls), **nets)


def decoded(bundle: "Bundle", latents: Tensor, decoding: Decoding | None, meets: tuple[bool, bool]) -> Image.Image:
    """One picture's latents as pixels, in the way that the request says."""
    if decoding is None or not (decoding.tile or decoding.tiny):
        return bundle.decode(latents)[0]
    from aquatint.pipelines.bundle import finite

    if decoding.tiny:
        assert bundle.tiny is not None, "checked before the first step"
        net = bundle.tiny.net
        side = decoding.tile // net.config.factor
        x = (
            by_tiles(net.decode, latents, side, net.reach, up=net.config.factor, around=meets)
            if side
            else (net.decode(latents))
        )
    else:
        x = decode_tiled(bundle.autoencoder, latents, decoding.tile, meets)
    return images.to_pictures(finite(x, "decoder", bundle))[0]


def encoded(bundle: "Bundle", picture: Image.Image, decoding: Decoding | None, meets: tuple[bool, bool]) -> Tensor:
    """A picture as latents, by tiles if the request says so."""
    if decoding is None or not decoding.tile:
        return bundle.encode(picture)
    return encode_tiled(bundle.autoencoder, images.to_tensor(picture).to(bundle.device), decoding.tile, meets)


def enlarged(bundle: "Bundle", latents: Tensor, request: "Resolved", hires: "Hires", way: str | Upscaler) -> Tensor:
    """One picture's latents after the first pass -> those that the second begins from.

    request   of the first pass
    """
    (width, height), (kept_width, kept_height) = hires.sizes(request.width, request.height)
    meets, factor = around(request), bundle.family.autoencoder.factor
    if isinstance(way, str) and way in WAYS:
        large = latents_to(latents, height // factor, width // factor, way, meets)
    elif (width, height) == (request.width, request.height):
        large = latents
    else:
        small = decoded(bundle, latents, request.decoding, meets)
        picture = picture_to(small, width, height, way, meets)
        large = encoded(bundle, picture, request.decoding, meets)
    return cut(large, kept_height // factor, kept_width // factor)


def _fitting(bundle: "Bundle", path: str | Path) -> Tiny:
    tiny = open_tiny(path, bundle.dtype)
    theirs, ours = tiny.net.config, bundle.autoencoder.config
    if theirs.latents != ours.latents or theirs.factor != ours.factor:
        raise UserError(
            f'"{tiny.name}" decodes {theirs.latents} channels to {theirs.factor} times the size.',
            f"{bundle.family.name}: {ours.latents} and {ours.factor}.",
        )
    bundle.engine.prepare(tiny.net.to(bundle.device))
    return tiny
