"""Requests of every kind, for hypothesis."""

from hypothesis import strategies as st

from aquatint.diffusion.grids import GRIDS
from aquatint.diffusion.samplers import SAMPLERS
from aquatint.pipelines.approximations import Approximations, Reuse
from aquatint.pipelines.guiding import Apg, FreeU, Guiding, Interval, Pag, Sag, Threshold
from aquatint.pipelines.hires import LATENT_NAMES, PIXEL_NAMES, Hires
from aquatint.pipelines.lora import Lora
from aquatint.pipelines.micro import Micro
from aquatint.pipelines.prompt import GRAMMARS
from aquatint.pipelines.refine import Refine
from aquatint.pipelines.request import OTHERS, Request
from aquatint.pipelines.safety import ACTIONS
from aquatint.pipelines.stream import Stream
from aquatint.pipelines.tiling import Decoding, Tiling
from aquatint.pipelines.variation import Variation

texts = st.text(st.characters(exclude_categories=("Cs", "Cc")) | st.sampled_from("\n\t\r,:\"'\\&<>{}()"), max_size=60)
sides = st.none() | st.integers(1, 512).map(lambda n: 8 * n)
unit = st.none() | st.floats(0, 1)
weight = st.floats(-100, 100)
names = texts.filter(lambda text: bool(text.strip())).map(
    lambda text: text.replace("/", "").replace("\\", "").strip() or "x"
)
loras = st.builds(
    Lora,
    name=names,
    weight=weight,
    text_weight=st.none() | weight,
    blocks=st.dictionaries(st.sampled_from(["IN00", "M00", "BASE"]), weight).map(lambda d: tuple(d.items())),
)
pairs = st.none() | st.tuples(st.integers(1, 65_536), st.integers(1, 65_536))
beauty = st.none() | st.floats(0, 100)
micros = st.none() | st.builds(
    Micro, original=pairs, crop=pairs, target=pairs, aesthetic=beauty, negative_aesthetic=beauty,
    blank=st.none() | st.booleans(),
)  # fmt: skip
eights = st.integers(1, 512).map(lambda n: 8 * n)
sized = st.none() | st.tuples(eights, eights)
variations = st.builds(
    lambda seed, strength, size: Variation(seed, strength, *(size or (None, None))),
    st.integers(0, 2**64 - 1),
    st.floats(0, 1),
    sized,
)
passes = st.builds(
    lambda scale, size, **more: Hires(scale if size is None else None, *(size or (None, None)), **more),
    st.none() | st.floats(1, 16),
    sized,
    upscaler=st.sampled_from([*LATENT_NAMES, *PIXEL_NAMES, "sharp-x4"]),
    strength=st.floats(0, 1),
    steps=st.none() | st.integers(1, 1000),
    sampler=st.none() | st.sampled_from(sorted(SAMPLERS)),
    grid=st.none() | st.sampled_from(sorted(GRIDS)),
    prompt=st.none() | texts.filter(lambda text: bool(text.strip())),
    negative=st.none() | texts,
    guidance=st.none() | st.floats(0, 100),
)
tilings = st.builds(
    Tiling, st.none() | eights, st.none() | eights, st.none() | st.just(0), st.sampled_from(["even", "gaussian"])
)
scale = st.floats(0, 100)
guidings = st.builds(
    Guiding,
    interval=st.none() | st.floats(0, 0.9).flatmap(lambda a: st.builds(Interval, st.just(a), st.floats(a + 0.01, 1))),
    threshold=st.none() | st.builds(Threshold, percentile=unit, limit=st.floats(0.01, 100)),
    apg=st.none() | st.builds(Apg, st.floats(0, 1), scale, st.floats(-0.9, 0.9)),
    perp_neg=st.none() | scale,
    pag=st.none() | st.builds(Pag, scale, st.lists(st.sampled_from(["middle", "descent.1"]), min_size=1).map(tuple)),
    sag=st.none() | st.builds(Sag, scale, st.floats(0.1, 10)),
    freeu=st.none() | st.builds(FreeU, *[st.floats(0, 10)] * 4, st.sampled_from([1, 2])),
)
approximate = st.builds(
    Approximations,
    reuse=st.none() | st.builds(Reuse, st.integers(1, 1000), st.integers(1, 100)),
    merge=st.none() | st.floats(0, 0.75),
)
requests = st.builds(
    Request,
    prompt=texts.filter(lambda text: bool(text.strip())),
    negative=texts,
    width=sides,
    height=sides,
    seeds=st.lists(st.integers(0, 2**64 - 1), min_size=1, max_size=5).map(tuple),
    steps=st.none() | st.integers(1, 1000),
    sampler=st.none() | st.sampled_from(sorted(SAMPLERS)),
    grid=st.none() | st.sampled_from(sorted(GRIDS)),
    guidance=st.none() | st.floats(0, 100),
    rescale=unit,
    eta=unit,
    options=st.dictionaries(st.text(max_size=8), st.floats(-10, 10), max_size=2).map(lambda d: tuple(d.items())),
    noise=st.sampled_from(OTHERS),
    ensd=st.integers(-(2**64) + 1, 2**64 - 1),
    grammar=st.sampled_from(sorted(GRAMMARS)),
    clip_skip=st.none() | st.integers(1, 2),
    loras=st.lists(loras, max_size=2).map(tuple),
    micro=micros,
    stream=st.none() | st.integers(1, 4).flatmap(lambda of: st.builds(Stream, st.integers(0, of - 1), st.just(of))),
    safety=st.sampled_from(ACTIONS),
    variation=st.none() | variations,
    hires=st.none() | passes,
    tiling=st.none() | tilings,
    decoding=st.none() | st.builds(Decoding, st.sampled_from([0, 64, 512]), st.booleans()),
    refine=st.none() | st.builds(Refine, after=st.floats(0.01, 0.99), aesthetic=beauty, negative_aesthetic=beauty),
    guiding=st.none() | guidings,
    approximations=st.none() | approximate,
)
