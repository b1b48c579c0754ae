"""Pixels of a scene: emoji bitmaps of the Noto font, shapes, and backgrounds, all with soft edges.

Everything that repeats (a bitmap at a size, a shape's outline, a painted background) is drawn once and kept, so that a
scene costs little more than its pastes.
"""

import math
import os
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFilter, ImageFont

from aquatint.base.errors import UserError
from aquatint.training.data.scenes import Background, Draws, Scene

FONT_VARIABLE = "AQUATINT_EMOJI_FONT"
FONT_PLACES: tuple[str, ...] = (
    "/usr/share/fonts/truetype/noto/NotoColorEmoji.ttf",  # Debian, Ubuntu
    "/usr/share/fonts/google-noto-emoji/NotoColorEmoji.ttf",  # Fedora
    "/usr/share/fonts/noto/NotoColorEmoji.ttf",  # Arch
    "~/.local/share/fonts/NotoColorEmoji.ttf",
    "~/.fonts/NotoColorEmoji.ttf",
)
STRIKE = 109  # the only bitmap size in the font, px an em
Points = list[tuple[float, float]]


def font_path() -> Path:
    """Where the Noto Color Emoji font is: $AQUATINT_EMOJI_FONT if set, else the first of FONT_PLACES that exists."""
    named = os.environ.get(FONT_VARIABLE)
    for place in (named,) if named else FONT_PLACES:
        path = Path(place).expanduser()
        if path.is_file():
            return path
    raise UserError(
        f'The emoji font "{named}" ({FONT_VARIABLE}) does not exist.' if named else "The emoji font was not found.",
        "Rendering training scenes takes NotoColorEmoji.ttf (the bitmap edition).",
        f"Install it (Debian: apt-get install fonts-noto-color-emoji), or set {FONT_VARIABLE} to the file.",
    )


def has_font() -> bool:
    """Whether scenes can be rendered here."""
    try:
        return font_path().is_file()
    except UserError:
        return False


@lru_cache(maxsize=1)
def _font() -> ImageFont.FreeTypeFont:
    path = font_path()
    try:
        return ImageFont.truetype(str(path), STRIKE)
    except OSError as error:
        raise UserError(f'"{path}" is not the bitmap emoji font ({error}).', "It takes NotoColorEmoji.ttf.") from error


@lru_cache(maxsize=512)
def _bitmap(emoji: str) -> Image.Image:
    """The emoji's own bitmap (RGBA), cut to what is drawn, so that `side` means the same for every subject."""
    font = _font()
    left, top, right, bottom = (round(edge) for edge in font.getbbox(emoji))
    if right - left > 1.5 * 136:
        raise UserError(f'The font draws "{emoji}" as more than one picture.', "It takes one emoji.")
    image = Image.new("RGBA", (right - left, bottom - top))
    ImageDraw.Draw(image).text((-left, -top), emoji, font=font, embedded_color=True)
    box = image.getchannel("A").point(lambda a: 255 if a > 16 else 0).getbbox()
    if box is None:
        raise UserError(f'The font has no picture for "{emoji}".', "It takes an emoji of Noto Color Emoji.")
    return image.crop(box)


@lru_cache(maxsize=4096)
def _sprite(emoji: str, side: int) -> Image.Image:
    bitmap = _bitmap(emoji)
    scale = side / max(bitmap.size)
    return bitmap.resize(
        (max(1, round(bitmap.width * scale)), max(1, round(bitmap.height * scale))), Image.Resampling.LANCZOS
    )


def _ring(corners: int, turn: float = -0.25, radius: float = 0.5, inner: float | None = None) -> Points:
    """A regular polygon in the unit square, or a star if every second corner lies at radius `inner`."""
    radii = [radius] if inner is None else [radius, inner]
    count = corners * len(radii)
    return [
        (
            0.5 + radii[i % len(radii)] * math.cos(2 * math.pi * (i / count + turn)),
            0.5 + radii[i % len(radii)] * math.sin(2 * math.pi * (i / count + turn)),
        )
        for i in range(count)
    ]


def _heart() -> Points:
    """x = 16 sin^3 t, y = 13 cos t - 5 cos 2t - 2 cos 3t - cos 4t, fitted to the unit square."""
    turns = [2 * math.pi * i / 96 for i in range(96)]
    return [
        (
            0.5 + math.sin(t) ** 3 / 2,
            0.46 - (13 * math.cos(t) - 5 * math.cos(2 * t) - 2 * math.cos(3 * t) - math.cos(4 * t)) / 32,
        )
        for t in turns
    ]


def _crescent() -> Points:
    outer = [(0.55 + 0.5 * math.cos(a), 0.5 + 0.5 * math.sin(a)) for a in np.linspace(0.9, 2 * math.pi - 0.9, 64)]
    inner = [(0.78 + 0.40 * math.cos(a), 0.5 + 0.40 * math.sin(a)) for a in np.linspace(2 * math.pi - 1.4, 1.4, 64)]
    return outer + inner


OUTLINES: dict[str, Points] = {
    "circle": _ring(96),
    "square": [(0.06, 0.06), (0.94, 0.06), (0.94, 0.94), (0.06, 0.94)],
    "triangle": [(0.5, 0.04), (1.0, 0.93), (0.0, 0.93)],
    "star": [(x, y + 0.04) for x, y in _ring(5, radius=0.53, inner=0.23)],
    "heart": _heart(),
    "diamond": [(0.5, 0.0), (0.88, 0.5), (0.5, 1.0), (0.12, 0.5)],
    "pentagon": [(x, y + 0.04) for x, y in _ring(5)],
    "hexagon": _ring(6, turn=0.0),
    "oval": [(x, 0.5 + 0.62 * (y - 0.5)) for x, y in _ring(96)],
    "cross": [
        (0.34, 0.0), (0.66, 0.0), (0.66, 0.34), (1.0, 0.34), (1.0, 0.66), (0.66, 0.66),
        (0.66, 1.0), (0.34, 1.0), (0.34, 0.66), (0.0, 0.66), (0.0, 0.34), (0.34, 0.34),
    ],
    "arrow": [(0.0, 0.34), (0.52, 0.34), (0.52, 0.08), (1.0, 0.5), (0.52, 0.92), (0.52, 0.66), (0.0, 0.66)],
    "crescent": _crescent(),
}  # fmt: skip


@lru_cache(maxsize=4096)
def _stencil(shape: str, side: int) -> Image.Image:
    """The shape's coverage (mode L), drawn four times too large and averaged."""
    large = Image.new("L", (side * 4, side * 4))
    ImageDraw.Draw(large).polygon([(x * (side * 4 - 1), y * (side * 4 - 1)) for x, y in OUTLINES[shape]], fill=255)
    return large.reduce(4)


def _fade(size: int, *stops: tuple[int, int, int]) -> Image.Image:
    """A vertical run through the stops, in linear steps of sRGB values."""
    at = np.linspace(0, len(stops) - 1, size)
    rows = np.stack([np.interp(at, range(len(stops)), [stop[c] for stop in stops]) for c in range(3)], axis=-1)
    pixels = np.ascontiguousarray(np.broadcast_to(np.rint(rows).astype(np.uint8)[:, None], (size, size, 3)))
    return Image.fromarray(pixels)


def _hill(draw: ImageDraw.ImageDraw, n: int, x: float, y: float, wide: float, fill: tuple[int, int, int]) -> None:
    """An ellipse whose top touches (x, y), wide enough to read as a hill and deep enough to leave at the bottom."""
    draw.ellipse([(x - wide) * n, y * n, (x + wide) * n, (y + 1.6) * n], fill=fill)


def _cloud(image: Image.Image, n: int, x: float, y: float, r: float) -> None:
    draw = ImageDraw.Draw(image)
    for dx, dy, k in ((-1.1, 0.25, 0.62), (0.0, -0.1, 0.9), (1.0, 0.2, 0.7), (0.4, 0.35, 0.6), (-0.5, 0.35, 0.6)):
        cx, cy, cr = (x + dx * r) * n, (y + dy * r) * n, k * r * n
        draw.ellipse([cx - cr, cy - cr, cx + cr, cy + cr], fill=(250, 252, 255))


def _meadow(n: int, draws: Draws) -> Image.Image:
    image = _fade(n, (120, 190, 246), (200, 232, 252))
    _cloud(image, n, draws.uniform(0.14, 0.3), draws.uniform(0.1, 0.2), 0.08)
    _cloud(image, n, draws.uniform(0.66, 0.86), draws.uniform(0.08, 0.22), 0.07)
    draw = ImageDraw.Draw(image)
    level = draws.uniform(0.60, 0.66)
    _hill(draw, n, draws.uniform(0.1, 0.9), level - 0.06, 1.1, (126, 200, 96))
    _hill(draw, n, draws.uniform(0.0, 1.0), level + 0.05, 1.5, (98, 180, 76))
    return image


def _sea(n: int, draws: Draws) -> Image.Image:
    image = _fade(n, (150, 208, 250), (216, 240, 252))
    level = draws.uniform(0.52, 0.58)
    image.paste(_fade(n, (44, 130, 206), (16, 72, 150)).resize((n, n - int(level * n))), (0, int(level * n)))
    draw = ImageDraw.Draw(image)
    for row in range(4):
        y, shift = (level + 0.07 + 0.105 * row) * n, draws.uniform(0.0, 0.25)
        wave = [
            ((shift + i / 64 * 1.5 - 0.3) * n, y + 0.012 * n * math.sin(i / 64 * 1.5 * 6 * math.pi)) for i in range(65)
        ]
        draw.line(wave, fill=(110, 182, 232), width=max(1, round(0.014 * n)), joint="curve")
    return image


def _night(n: int, draws: Draws) -> Image.Image:
    image = _fade(n, (10, 14, 48), (40, 44, 104))
    draw = ImageDraw.Draw(image)
    for row in range(4):
        for column in range(4):
            x, y = (column + draws.uniform(0.15, 0.85)) / 4 * n, (row + draws.uniform(0.15, 0.85)) / 4 * n
            r = draws.uniform(0.008, 0.015) * n
            draw.ellipse([x - r, y - r, x + r, y + r], fill=(255, 246, 200))
    x, y, r = (0.14 if draws.below(2) else 0.86) * n, 0.14 * n, 0.085 * n
    draw.ellipse([x - r, y - r, x + r, y + r], fill=(255, 236, 160))
    return image


def _snow(n: int, draws: Draws) -> Image.Image:
    image = _fade(n, (134, 168, 206), (190, 212, 234))
    draw = ImageDraw.Draw(image)
    level = draws.uniform(0.66, 0.72)
    _hill(draw, n, draws.uniform(0.0, 1.0), level - 0.05, 1.2, (222, 232, 244))
    _hill(draw, n, draws.uniform(0.0, 1.0), level + 0.05, 1.5, (246, 249, 253))
    for row in range(3):
        for column in range(5):
            x, y = (column + draws.uniform(0.1, 0.9)) / 5 * n, (row + draws.uniform(0.1, 0.9)) / 5 * n
            r = draws.uniform(0.011, 0.018) * n
            draw.ellipse([x - r, y - r, x + r, y + r], fill=(255, 255, 255))
    return image


def _desert(n: int, draws: Draws) -> Image.Image:
    image = _fade(n, (98, 196, 232), (238, 240, 214))
    draw = ImageDraw.Draw(image)
    x, y, r = (0.15 if draws.below(2) else 0.85) * n, 0.15 * n, 0.085 * n
    draw.ellipse([x - r, y - r, x + r, y + r], fill=(255, 238, 130))
    level = draws.uniform(0.56, 0.62)
    _hill(draw, n, draws.uniform(0.0, 0.35), level, 0.8, (232, 190, 116))
    _hill(draw, n, draws.uniform(0.65, 1.0), level + 0.05, 0.85, (222, 174, 98))
    _hill(draw, n, draws.uniform(0.3, 0.7), level + 0.18, 1.2, (240, 204, 136))
    return image


def _sunset(n: int, draws: Draws) -> Image.Image:
    image = _fade(n, (74, 50, 128), (216, 88, 116), (255, 160, 72), (255, 210, 110))
    draw = ImageDraw.Draw(image)
    x, y, r = draws.uniform(0.25, 0.75) * n, draws.uniform(0.66, 0.72) * n, 0.17 * n
    draw.ellipse([x - r, y - r, x + r, y + r], fill=(255, 240, 170))
    draw.rectangle([0, 0.8 * n, n, n], fill=(70, 38, 74))
    return image


def _city(n: int, draws: Draws) -> Image.Image:
    image = _fade(n, (148, 196, 236), (236, 226, 214))
    draw = ImageDraw.Draw(image)
    for depth, tint in ((0.34, (176, 188, 208)), (0.5, (126, 140, 170))):  # far houses, then near ones
        left = -0.05
        while left < 1.0:
            wide, top = draws.uniform(0.09, 0.16), depth - draws.uniform(0.0, 0.2)
            draw.rectangle([left * n, top * n, (left + wide) * n, 0.84 * n], fill=tint)
            for row in range(5):
                for column in range(2):
                    x, y = left + wide * (0.22 + 0.38 * column), top + 0.035 + 0.06 * row
                    if draws.below(3):
                        draw.rectangle([x * n, y * n, (x + 0.022) * n, (y + 0.026) * n], fill=(250, 236, 180))
            left += wide + draws.uniform(0.0, 0.03)
    draw.rectangle([0, 0.8 * n, n, n], fill=(92, 94, 102))
    for mark in range(4):
        x = (0.02 + 0.27 * mark + draws.uniform(0.0, 0.02)) * n
        draw.rectangle([x, 0.89 * n, x + 0.13 * n, 0.91 * n], fill=(238, 238, 230))
    return image


def _water(n: int, draws: Draws) -> Image.Image:
    image = _fade(n, (86, 200, 228), (20, 108, 176), (10, 60, 126))
    draw = ImageDraw.Draw(image)
    _hill(draw, n, draws.uniform(0.2, 0.8), 0.88, 1.6, (222, 202, 150))
    for plant in range(4):
        x, high = (0.06 + 0.1 * plant if plant < 2 else 0.68 + 0.12 * (plant - 2)), draws.uniform(0.16, 0.3)
        stem = [((x + 0.018 * math.sin(9 * i / 20 + plant)) * n, (0.95 - high * i / 20) * n) for i in range(21)]
        draw.line(stem, fill=(40, 150, 96), width=max(1, round(0.024 * n)), joint="curve")
    for _ in range(9):
        x, y, r = draws.uniform(0.04, 0.96) * n, draws.uniform(0.06, 0.7) * n, draws.uniform(0.008, 0.02) * n
        draw.ellipse([x - r, y - r, x + r, y + r], outline=(206, 240, 250), width=max(1, round(0.005 * n)))
    return image


PAINTERS: dict[str, Callable[[int, Draws], Image.Image]] = {
    "meadow": _meadow,
    "sea": _sea,
    "night": _night,
    "snow": _snow,
    "desert": _desert,
    "sunset": _sunset,
    "city": _city,
    "water": _water,
}


@lru_cache(maxsize=256)
def _painting(name: str, variant: int, size: int) -> Image.Image:
    large = PAINTERS[name](size * 4, Draws(variant, 0)).reduce(4)
    return large.filter(ImageFilter.GaussianBlur(size / 256))  # a little out of focus: the object is what counts


@lru_cache(maxsize=256)
def _gradient(top: tuple[int, int, int], bottom: tuple[int, int, int], size: int) -> Image.Image:
    return _fade(size, top, bottom)


def _ground(scene: Scene, background: Background, size: int) -> Image.Image:
    if background.kind == "painted":
        return _painting(background.words[0], background.variant, size).copy()
    tints = [scene.world.grounds[word] for word in background.words]
    if background.kind == "plain":
        return Image.new("RGB", (size, size), tints[0])
    return _gradient(tints[0], tints[1], size).copy()


def render(scene: Scene, size: int | None = None) -> np.ndarray:
    """The scene's pixels: uint8 [size, size, 3]; size defaults to the world's canvas."""
    n = scene.world.canvas if size is None else size
    image = _ground(scene, scene.background, n)
    for thing in scene.things:
        side = max(1, round(thing.side * n))
        if thing.kind == "subject":
            sprite: Image.Image = _sprite(scene.world.subjects[thing.word].emoji, side)
            mask = sprite
        else:
            assert thing.colour is not None
            mask = _stencil(thing.word, side)
            sprite = Image.new("RGB", mask.size, scene.world.colours[thing.colour])
        corner = (round(thing.x * n - sprite.width / 2), round(thing.y * n - sprite.height / 2))
        image.paste(sprite.convert("RGB") if sprite.mode == "RGBA" else sprite, corner, mask)
    return np.array(image)
