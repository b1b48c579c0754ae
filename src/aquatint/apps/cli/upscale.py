"""`aquatint upscale`: a picture at a larger size, by a filter or by a trained upscaler."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from aquatint.apps.cli.enlarge import is_path
from aquatint.apps.cli.generate import Machine, read_size
from aquatint.apps.cli.output import FORMATS, SUFFIXES, Output
from aquatint.base import files
from aquatint.base.errors import UserError, unknown

FILTERS = ("lanczos", "nearest")
LARGEST_SCALE = 16.0


@Parameter(name="*")
@dataclass
class Larger:
    """How the picture is enlarged."""

    upscaler: Annotated[str, Parameter(help="lanczos, nearest, or an ESRGAN file.")] = "lanczos"
    scale: Annotated[float | None, Parameter(help="Times its sides; the file's own, or 2, if not given.")] = None
    size: Annotated[str | None, Parameter(help="WIDTHxHEIGHT instead.")] = None
    tile: Annotated[int, Parameter(help="Pixels a side in which a net works: less takes less memory.")] = 512
    out: Annotated[str | None, Parameter(help="A folder or file; beside the picture if not given.")] = None


def upscale(
    picture: Annotated[Path, Parameter(help="A PNG, JPEG or WebP file.")],
    /,
    *,
    larger: Larger | None = None,
    machine: Machine | None = None,
) -> None:
    """Enlarge a picture, whoever made it.

    The new file is marked as made with AI if the old one was, or if a net enlarged it; what the old one says of its
    making is not copied, for that does not lead to these pixels.
    """
    larger, machine = larger or Larger(), machine or Machine()
    if larger.scale is not None and (larger.size is not None or not 1 <= larger.scale <= LARGEST_SCALE):
        raise UserError(f"--scale {larger.scale:g}.", f"A number from 1 to {LARGEST_SCALE:g}, and no --size with it.")
    if not 64 <= larger.tile <= 4096:
        raise UserError(f"--tile {larger.tile}.", "64 to 4096.")
    from aquatint.base import images, runtime
    from aquatint.engines.choice import choose_engine
    from aquatint.nets.upscaler import Upscaler
    from aquatint.pipelines import metadata
    from aquatint.pipelines.enlarge import picture_to
    from aquatint.weights.upscalers import open_upscaler

    data = files.read(picture, limit=images.LARGEST_FILE)
    image, format = images.decode(data), images.header(data).format
    marked, rgb = metadata.find(image).marked, images.rgb(image)
    way: str | Upscaler = larger.upscaler
    device = runtime.choose_device(machine.device)
    if is_path(larger.upscaler):
        kind = runtime.choose_dtype(machine.dtype, device)
        way = open_upscaler(larger.upscaler, kind)
        choose_engine(machine.engine, device, kind).prepare(way.net.to(device))
    elif way not in FILTERS:
        raise unknown("upscaler", larger.upscaler, FILTERS)
    usual = way.scale if isinstance(way, Upscaler) else 2
    scale = usual if larger.scale is None else larger.scale
    width, height = read_size(larger.size) if larger.size else (int(rgb.width * scale), int(rgb.height * scale))
    if not (1 <= width <= images.LARGEST_SIDE and 1 <= height <= images.LARGEST_SIDE) or (
        width * height > images.LARGEST_AREA
    ):
        raise UserError(f"{width} x {height} pixels.", f"At most {images.LARGEST_SIDE:,} a side.", "A smaller --scale.")
    suffix = picture.suffix if picture.suffix.lower() in FORMATS else SUFFIXES[format]
    output = Output(larger.out or str(picture.with_name(f"{picture.stem}-{width}x{height}{suffix}")), None, 1)
    try:
        with runtime.exact(device, runtime.choose_threads(machine.threads)):
            made = picture_to(rgb, width, height, way, tile=larger.tile)
        ai = marked or isinstance(way, Upscaler)
        path = output.write(metadata.encode_plain(made, output.format, marked=ai), picture.stem, 0)
    except BaseException:
        output.abandon()
        raise
    print(f"{path}  {width} x {height}", flush=True)
