"""Requests of every kind, for hypothesis."""

from hypothesis import strategies as st

from aquatint.diffusion.grids import GRIDS
from aquatint.diffusion.samplers import SAMPLERS
from aquatint.pipelines.guiding import Apg, FreeU, Guiding, Interval, Pag, Sag, Threshold
from aquatint.pipelines.lora import Lora
from aquatint.pipelines.prompt import GRAMMARS
from aquatint.pipelines.request import Request

texts = st.text(st.characters(exclude_categories=("Cs", "Cc")) | st.sampled_from("\n\t\r,:\"'\\&<>{}()"), max_size=60)
sides = st.none() | st.integers(1, 512).map(lambda n: 8 * n)
unit = st.none() | st.floats(0, 1)
weight = st.floats(-100, 100)
names = texts.filter(lambda text: bool(text.strip())).map(
    lambda text: text.strip().replace("/", "").replace("\\", "") or "x"
)
loras = st.builds(
    Lora,
    name=names,
    weight=weight,
    text_weight=st.none() | weight,
    blocks=st.dictionaries(st.sampled_from(["IN00", "M00", "BASE"]), weight).map(lambda d: tuple(d.items())),
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
    noise=st.sampled_from(["cpu", "nv"]),
    ensd=st.integers(-(2**64) + 1, 2**64 - 1),
    grammar=st.sampled_from(sorted(GRAMMARS)),
    clip_skip=st.none() | st.integers(1, 2),
    loras=st.lists(loras, max_size=2).map(tuple),
    guiding=st.none() | guidings,
)
