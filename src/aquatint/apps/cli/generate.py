"""`aquatint generate`: from words to files."""

import hashlib
import json
import os
import re
import sys
import time
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from aquatint.apps.cli import start
from aquatint.apps.cli.adapters import Adapting, opening, read_loras, tell_notes
from aquatint.apps.cli.approximate import Approximating, read_approximating, tell_approximate
from aquatint.apps.cli.chance import Chance
from aquatint.apps.cli.control import Controlling, opening_controls, read_controls
from aquatint.apps.cli.edit import Editing, read_edit
from aquatint.apps.cli.enlarge import Enlarging, Tools, opening_tools, read_enlarging, varied
from aquatint.apps.cli.guard import Guarding, guarded
from aquatint.apps.cli.guiding import Guidance, read_guiding
from aquatint.apps.cli.many import Finish, Many, check_prompt, spread
from aquatint.apps.cli.micro import Sizing, read_micro, read_refine
from aquatint.apps.cli.output import STANDARD_OUTPUT, Output
from aquatint.apps.cli.shown import Shown, with_shown
from aquatint.base.errors import UserError

if TYPE_CHECKING:
    from aquatint.pipelines.bundle import Bundle
    from aquatint.pipelines.picture import Picture
    from aquatint.pipelines.request import Request


@Parameter(name="*")
@dataclass
class Wishes:
    """What the picture shall be; what is not said is left to the model."""

    negative: Annotated[str, Parameter(help="What to stay away from.", allow_leading_hyphen=True)] = ""
    seed: Annotated[int | None, Parameter(help="0 to 2^64 - 1; by chance if not given, and printed.")] = None
    count: Annotated[int, Parameter(help="How many pictures: seeds SEED, SEED + 1, ...")] = 1
    size: Annotated[str | None, Parameter(help="WIDTHxHEIGHT in pixels, multiples of 8.")] = None
    steps: Annotated[int | None, Parameter(help="How many times the net is asked.")] = None
    sampler: Annotated[str | None, Parameter(help="See aquatint samplers.")] = None
    grid: Annotated[str | None, Parameter(help="See aquatint grids.")] = None
    guidance: Annotated[float | None, Parameter(help="How much the prompt counts; 1 is no more than probable.")] = None
    rescale: Annotated[float | None, Parameter(help="Share of guidance's contrast taken back, 0 to 1.")] = None
    eta: Annotated[float | None, Parameter(help="Fresh noise a step, 0 to 1, for samplers that take it.")] = None
    option: Annotated[list[str] | None, Parameter(help="NAME=NUMBER: another option of the sampler.", negative="")] = (
        None
    )
    noise: Annotated[str, Parameter(help="Whose random numbers: aquatint, cpu or nv (torch's).")] = "aquatint"
    ensd: Annotated[int, Parameter(help="Added to the seed for the noise of steps, with cpu and nv.")] = 0
    grammar: Annotated[str, Parameter(help="How the prompts are read: a1111, comfy or plain.")] = "a1111"
    clip_skip: Annotated[int | None, Parameter(help="Layer of the text encoder, from the end; 1 is the last.")] = None


@Parameter(name="*")
@dataclass
class Source:
    """Which model, and how its files are read."""

    model: Annotated[str | None, Parameter(help="A file, a folder or a hub id; the pocket model if not given.")] = None
    variant: Annotated[str | None, Parameter(help="Which variant of a folder's weights, as in fp16.")] = None
    revision: Annotated[str | None, Parameter(help="Which commit, tag or branch of a hub id.")] = None
    ema: Annotated[str, Parameter(help="prefer or ignore the averaged weights of a single file.")] = "ignore"
    prediction: Annotated[str | None, Parameter(help="epsilon, v or sample, if the model says it wrongly.")] = None
    tokenizer: Annotated[str | None, Parameter(help="A folder, if the one beside the model is not meant.")] = None

    def options(self) -> dict[str, Any]:
        """All but the model's name, as `weights.open_model` takes it."""
        return {name: value for name, value in vars(self).items() if name != "model"}


@Parameter(name="*")
@dataclass
class Machine:
    """Where it computes, and in what."""

    device: Annotated[str, Parameter(help="auto, cpu, cuda, cuda:1, mps or xpu.")] = "auto"
    dtype: Annotated[str, Parameter(help="auto, float32, float16 or bfloat16.")] = "auto"
    threads: Annotated[int | None, Parameter(help="How many share one operation.")] = None
    engine: Annotated[str, Parameter(help="auto, torch, kernels or fp8: whose kernels compute.")] = "auto"
    memory: Annotated[str | None, Parameter(help="How much it may take, as in 6GB: the more, the quicker.")] = None


@Parameter(name="*")
@dataclass
class Showing:
    """Where pictures go and what is said meanwhile."""

    out: Annotated[
        str,
        Parameter(help="A folder, a file (.png, .jpg, .webp), or - for standard output.", allow_leading_hyphen=True),
    ] = "pictures"
    format: Annotated[str | None, Parameter(help="png, jpeg or webp; png if the file's name does not say.")] = None
    preview: Annotated[bool, Parameter(help="Show the picture while it grows.", negative="")] = False
    json: Annotated[bool, Parameter(help="One JSON line a picture.", negative="")] = False


def generate(
    prompt: Annotated[
        str | None, Parameter(help="What to paint; - reads it from standard input.", allow_leading_hyphen=True)
    ] = None,
    /,
    *,
    wishes: Wishes | None = None,
    source: Source | None = None,
    machine: Machine | None = None,
    showing: Showing | None = None,
    chance: Chance | None = None,
    editing: Editing | None = None,
    adapting: Adapting | None = None,
    guidance: Guidance | None = None,
    sizing: Sizing | None = None,
    many: Many | None = None,
    guarding: Guarding | None = None,
    controlling: Controlling | None = None,
    enlarging: Enlarging | None = None,
    tools: Tools | None = None,
    shown: Shown | None = None,
    approximating: Approximating | None = None,
) -> None:
    """Paint pictures for a prompt.

    Files are never overwritten: a name that is taken gets a number. Each holds the request that it came from, so that
    `aquatint again FILE` paints it anew.
    """
    start.read_ahead(source.model if source else None)
    wishes, showing, many = wishes or Wishes(), showing or Showing(), many or Many()
    words = check_prompt(prompt, many)
    request = wished(words, wishes, editing, adapting, guidance, sizing, controlling, enlarging, shown, approximating)
    request, checker = guarded(request, guarding)
    requests = varied(spread(request, many, chance))
    finish = Finish(many)
    output = Output(showing.out, showing.format, sum(len(one.seeds) for one in requests))
    try:
        bundle = open_bundle(source, machine, opening_all(adapting, controlling, tools, enlarging) | checker)
        for request in requests:
            request.resolved(bundle.family)
        for request in requests:
            paint(bundle, request, output, showing, finish)
        finish.close()
    except BaseException:
        output.abandon()
        raise


def wished(
    prompt: str,
    wishes: Wishes,
    editing: Editing | None,
    adapting: Adapting | None,
    guidance: Guidance | None,
    sizing: Sizing | None,
    controlling: Controlling | None,
    enlarging: Enlarging | None,
    shown: Shown | None,
    approximating: Approximating | None,
) -> "Request":
    """The command line's request, with all that goes into one."""
    then = adapting.refiner if adapting else None
    request = replace(
        read_request(prompt, wishes),
        edit=read_edit(editing),
        loras=read_loras(adapting),
        guiding=read_guiding(guidance),
        micro=read_micro(sizing, then),
        refine=read_refine(sizing, then),
        controls=read_controls(controlling),
        approximations=read_approximating(approximating),
        **read_enlarging(enlarging),
    )
    return with_shown(request, shown)


def opening_all(
    adapting: Adapting | None, controlling: Controlling | None, tools: Tools | None, enlarging: Enlarging | None
) -> dict[str, Any]:
    """What `load` is to open beside the model."""
    return opening(adapting) | opening_controls(controlling) | opening_tools(tools, enlarging)


def read_request(prompt: str, wishes: Wishes) -> "Request":
    """The words of the command line as a Request; the one place where chance enters, if no seed is given."""
    if not 1 <= wishes.count <= 10_000:
        raise UserError(f"--count {wishes.count}.", "A whole number from 1 to 10000.")
    first = int.from_bytes(os.urandom(4), "big") if wishes.seed is None else wishes.seed
    width, height = (None, None) if wishes.size is None else read_size(wishes.size)
    prompt = read_prompt() if prompt == "-" else prompt
    from aquatint.pipelines.request import Request

    return Request(
        prompt,
        wishes.negative,
        width=width,
        height=height,
        seeds=tuple(range(first, first + wishes.count)),
        steps=wishes.steps,
        sampler=wishes.sampler,
        grid=wishes.grid,
        guidance=wishes.guidance,
        rescale=wishes.rescale,
        eta=wishes.eta,
        options=tuple(read_option(text) for text in wishes.option or ()),
        noise=wishes.noise,
        ensd=wishes.ensd,
        grammar=wishes.grammar,
        clip_skip=wishes.clip_skip,
    )


def read_size(text: str) -> tuple[int, int]:
    """ "512x768" -> (512, 768)."""
    match = re.fullmatch(r"([0-9]{1,12})[x×]([0-9]{1,12})", text.strip().lower())
    if not match:
        raise UserError(f'--size "{text}".', "WIDTHxHEIGHT in pixels, as in 512x512.")
    return int(match[1]), int(match[2])


def read_option(text: str) -> tuple[str, float]:
    """ "order=2" -> ("order", 2.0)."""
    name, _, number = text.partition("=")
    try:
        return name.strip(), float(number)
    except ValueError:
        raise UserError(f'--option "{text}".', "NAME=NUMBER, as in order=2.", "See aquatint samplers.") from None


def read_prompt() -> str:
    """The prompt from standard input, without the line's end."""
    try:
        return sys.stdin.read(1_000_000).rstrip("\n")
    except UnicodeDecodeError:
        raise UserError("What came on standard input is not text.", "A prompt in UTF-8.") from None


def open_bundle(
    source: Source | None = None, machine: Machine | None = None, adapters: Mapping[str, Any] | None = None
) -> "Bundle":
    """The model that the command line names, on its device, with the adapters that it may use."""
    from aquatint.pipelines.bundle import load

    source, machine = source or Source(), machine or Machine()
    bundle = load(source.model, **vars(machine), **source.options(), **(adapters or {}))
    start.end()
    if bundle.engine.note:
        print(f"note: {bundle.engine.note}", file=sys.stderr)
    return bundle


def paint(bundle: "Bundle", request: "Request", output: Output, showing: Showing, finish: Finish) -> None:
    """Paint a request: progress and notes to standard error, one line a picture to standard output."""
    from aquatint.apps.cli.screen import Screen
    from aquatint.apps.cli.sketch import Sketch
    from aquatint.pipelines.generate import generate as painting

    course = painting(bundle, request)  # refuses here what the model cannot do
    if note := bundle.note(request.prompt, request.grammar):
        print(f"note: {note}", file=sys.stderr)
    tell_notes(bundle, request)
    tell_approximate(request)
    began = time.perf_counter()
    with ExitStack() as stack:
        screen = stack.enter_context(Screen(request.resolved(bundle.family).total, len(request.seeds)))
        sketch = stack.enter_context(Sketch(bundle, request, output, screen)) if showing.preview else None
        for progress in course:
            screen.step(progress.index, progress.total, progress.number, progress.count, progress.seed)
            if progress.picture is None:
                if sketch is not None:
                    sketch.draw(progress)
                continue
            data = finish.encode(progress.picture, output.format)
            path = output.write(data, request.prompt, progress.seed)
            elapsed, began = time.perf_counter() - began, time.perf_counter()
            tell(progress.picture, path, elapsed, showing.json)


def tell(picture: "Picture", path: str, elapsed: float, as_json: bool) -> None:
    """One finished picture on standard output (on standard error if the picture itself is there)."""
    stream = sys.stderr if path == STANDARD_OUTPUT else sys.stdout
    if as_json:
        print(json.dumps(line(picture, path, elapsed), ensure_ascii=False), file=stream, flush=True)
    else:
        flag = "  flagged" if picture.flagged else ""
        print(f"{path}  seed {picture.seed}  {elapsed:.2f} s{flag}", file=stream, flush=True)


def line(picture: "Picture", path: str, elapsed: float) -> dict[str, Any]:
    """What `--json` says of a picture."""
    from aquatint.base import config

    return {
        "path": path,
        "seed": picture.seed,
        "width": picture.image.width,
        "height": picture.image.height,
        "pixels_sha256": hashlib.sha256(picture.image.tobytes()).hexdigest(),
        **({} if picture.flagged is None else {"flagged": picture.flagged}),
        "seconds": {"total": round(elapsed, 4)} | {name: round(value, 4) for name, value in picture.seconds.items()},
        **config.to_data(picture.record),
    }
