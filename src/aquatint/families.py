"""The families of Stable Diffusion, as data. A new family is a new row here, never a new class."""

from dataclasses import dataclass, replace

from aquatint.diffusion.schedule import ScheduleConfig
from aquatint.nets.autoencoder import AutoencoderConfig
from aquatint.nets.text import TextConfig
from aquatint.nets.unet import Stage, UNetConfig


@dataclass(frozen=True)
class Defaults:
    """What a request means where it says nothing; sizes in pixels."""

    width: int
    height: int
    steps: int
    sampler: str
    grid: str
    guidance: float
    rescale: float = 0.0


@dataclass(frozen=True)
class Family:
    """Everything that tells one kind of Stable Diffusion from another.

    text, text2   the text encoders, whose tokens the U-Net is told side by side; the last one's pooled vector is the
                  beginning of the U-Net's `vector`
    micro         the numbers that follow it there, 256 sinusoids each: names of MICRO (Podell et al. 2023, section 2.2)
    blank         whether a negative that says nothing is told as zeros, not as what the encoders say of ""
    """

    name: str
    unet: UNetConfig
    autoencoder: AutoencoderConfig
    text: TextConfig
    schedule: ScheduleConfig
    prediction: str
    defaults: Defaults
    text2: TextConfig | None = None
    micro: tuple[str, ...] = ()
    blank: bool = False

    @property
    def texts(self) -> tuple[TextConfig, ...]:
        """The text encoders in the order in which the U-Net is told their tokens."""
        return (self.text,) if self.text2 is None else (self.text, self.text2)

    @property
    def told(self) -> int:
        """Width of the U-Net's `vector` that pooled text and `micro` make."""
        return (self.texts[-1].projection or self.texts[-1].width) + MICRO_WIDTH * sum(
            MICRO[name] for name in self.micro
        )

    @property
    def sees(self) -> str:
        """What the U-Net is shown in channels of its own beside the noisy latents, by their number.

        "nothing", "mask" (of an inpainting net, with the masked picture), "picture" (InstructPix2Pix), "depth", or
        "unknown".
        """
        latents = self.autoencoder.latents
        kinds = {0: "nothing", latents + 1: "mask", latents: "picture", 1: "depth"}
        return kinds.get(self.unet.channels_in - latents, "unknown")


MICRO = {"original": 2, "crop": 2, "target": 2, "aesthetic": 1}  # how many numbers each is
MICRO_WIDTH = 256  # sinusoids of each number
SIZES, AESTHETIC = ("original", "crop", "target"), ("original", "crop", "aesthetic")


_LDM = AutoencoderConfig(encoder=(128, 256, 512, 512), decoder=(128, 256, 512, 512))
_SCALED_LINEAR = ScheduleConfig(kind="scaled_linear", start=0.00085, end=0.012)
_PAPER = Defaults(width=512, height=512, steps=50, sampler="plms", grid="leading", guidance=7.5)

SD15 = Family(
    name="SD15",
    unet=UNetConfig(stages=(Stage(320, 8), Stage(640, 8), Stage(1280, 8), Stage(1280, 8, depth=0))),
    autoencoder=_LDM,
    text=TextConfig(),
    schedule=_SCALED_LINEAR,
    prediction="epsilon",
    defaults=_PAPER,
)
SD15_INPAINT = replace(SD15, name="SD15_INPAINT", unet=replace(SD15.unet, channels_in=9))
# InstructPix2Pix (Brooks et al. 2023): the picture's latents come behind the noisy ones.
SD15_PIX2PIX = replace(
    SD15,
    name="SD15_PIX2PIX",
    unet=replace(SD15.unet, channels_in=8),
    defaults=replace(_PAPER, steps=100, sampler="euler_a", grid="linspace"),
)
# A latent consistency model (Luo et al. 2023): few steps, and guidance is a number that the net hears.
SD15_LCM = replace(
    SD15,
    name="SD15_LCM",
    unet=replace(SD15.unet, guidance=256),
    defaults=replace(_PAPER, steps=4, sampler="lcm", grid="lcm", guidance=8.0),
)
SD21 = Family(
    name="SD21",
    unet=UNetConfig(
        stages=(Stage(320, 5), Stage(640, 10), Stage(1280, 20), Stage(1280, 20, depth=0)), context=1024, linear=True
    ),
    autoencoder=_LDM,
    # OpenCLIP ViT-H has 24 layers; Stable Diffusion 2 reads the one before the last, so 23 are kept.
    text=TextConfig(width=1024, layers=23, heads=16, activation="gelu", pad="zero"),
    schedule=_SCALED_LINEAR,
    prediction="epsilon",
    defaults=_PAPER,
)
SD21_V = replace(SD21, name="SD21_V", prediction="v", defaults=replace(_PAPER, width=768, height=768))
SD21_INPAINT = replace(SD21, name="SD21_INPAINT", unet=replace(SD21.unet, channels_in=9))
SD21_DEPTH = replace(SD21, name="SD21_DEPTH", unet=replace(SD21.unet, channels_in=5))
# Distilled to one to four steps without guidance (Sauer et al. 2023); no shape or setting tells it from SD21.
SD_TURBO = replace(
    SD21, name="SD_TURBO", defaults=replace(_PAPER, steps=1, sampler="euler_a", grid="turbo", guidance=1.0)
)

# The carried model of the same architecture; docs/decisions/004 says how these widths were chosen.
POCKET = Family(
    name="POCKET",
    unet=UNetConfig(
        stages=(Stage(96, 3, depth=0), Stage(160, 5), Stage(224, 7)), blocks=1, context=256, groups=16, linear=True
    ),
    autoencoder=AutoencoderConfig(
        encoder=(16, 32, 64, 96), decoder=(24, 48, 96, 128), blocks=1, groups=0, middle_attention=False, scale=1.0
    ),
    text=TextConfig(width=256, layers=3, heads=8, vocabulary=2048, projection=256),
    schedule=replace(_SCALED_LINEAR, zero_terminal=True),
    prediction="v",
    defaults=Defaults(width=256, height=256, steps=12, sampler="dpmpp_2m", grid="trailing", guidance=3.5, rescale=0.7),
)

# The whole system at about 0.3 M parameters and random weights: what makes every door testable in milliseconds.
TINY = Family(
    name="TINY",
    unet=UNetConfig(stages=(Stage(16, 2), Stage(32, 2, depth=0)), blocks=1, context=32, groups=8),
    autoencoder=AutoencoderConfig(encoder=(8, 8, 16, 16), decoder=(8, 8, 16, 16), blocks=1, groups=4),
    text=TextConfig(width=32, layers=2, heads=2, vocabulary=1024),
    schedule=_SCALED_LINEAR,
    prediction="epsilon",
    defaults=Defaults(width=64, height=64, steps=4, sampler="ddim", grid="leading", guidance=7.5),
)

# Stable Diffusion XL (Podell et al. 2023, table 1). Both encoders are read at the layer before the last, not normed.
_BIG_G = TextConfig(
    width=1280, layers=32, heads=20, activation="gelu", projection=1280, pad="zero", skip=1, normed=False
)
SDXL = Family(
    name="SDXL",
    unet=UNetConfig(
        stages=(Stage(320, 5, depth=0), Stage(640, 10, depth=2), Stage(1280, 20, depth=10)),
        middle=10,
        context=2048,
        vector=2816,
        linear=True,
    ),
    autoencoder=replace(_LDM, scale=0.13025),
    text=TextConfig(skip=1, normed=False),
    schedule=_SCALED_LINEAR,
    prediction="epsilon",
    defaults=Defaults(width=1024, height=1024, steps=50, sampler="euler", grid="ddim_uniform", guidance=5.0),
    text2=_BIG_G,
    micro=SIZES,
    blank=True,
)
SDXL_INPAINT = replace(SDXL, name="SDXL_INPAINT", unet=replace(SDXL.unet, channels_in=9))
SDXL_REFINER = replace(
    SDXL,
    name="SDXL_REFINER",
    unet=UNetConfig(
        stages=(Stage(384, 6, depth=0), Stage(768, 12, depth=4), Stage(1536, 24, depth=4), Stage(1536, 24, depth=0)),
        middle=4,
        context=1280,
        vector=2560,
        linear=True,
    ),
    text=_BIG_G,
    text2=None,
    micro=AESTHETIC,
    blank=False,
)
TINY_XL = replace(
    SDXL,
    name="TINY_XL",
    unet=UNetConfig(
        stages=(Stage(16, 1, depth=0), Stage(32, 2, depth=2)), blocks=1, middle=2, context=56, vector=1576,
        groups=8, linear=True,
    ),
    autoencoder=replace(TINY.autoencoder, scale=0.13025),
    text=replace(TINY.text, skip=1, normed=False),
    text2=TextConfig(
        width=24, layers=3, heads=2, vocabulary=1024, activation="gelu", projection=40, pad="zero", skip=1, normed=False
    ),
    defaults=replace(SDXL.defaults, width=64, height=64, steps=4),
)  # fmt: skip

_ONE = (SD15, SD15_INPAINT, SD15_PIX2PIX, SD15_LCM)
_TWO = (SD21, SD21_V, SD21_INPAINT, SD21_DEPTH, SD_TURBO)
_LARGE = (SDXL, SDXL_INPAINT, SDXL_REFINER)
FAMILIES: dict[str, Family] = {row.name: row for row in (*_ONE, *_TWO, *_LARGE, POCKET, TINY, TINY_XL)}
