"""Options for controls: ControlNets, T2I-Adapters and IP-Adapters with their pictures."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

from cyclopts import Parameter

from aquatint.base.errors import UserError

if TYPE_CHECKING:
    from aquatint.pipelines.bundle import Bundle
    from aquatint.pipelines.control import Control
    from aquatint.pipelines.given import Given
    from aquatint.pipelines.record import Record
    from aquatint.pipelines.request import Request

T = TypeVar("T")


@Parameter(name="*")
@dataclass
class Controlling:
    """Pictures that steer the painting. Each option once for all controls, or once for each, in their order."""

    control: Annotated[
        list[str] | None, Parameter(help="A ControlNet, T2I-Adapter or IP-Adapter: FILE; several times.", negative="")
    ] = None
    control_image: Annotated[list[str] | None, Parameter(help="The control's picture.", negative="")] = None
    control_mask: Annotated[
        list[str] | None, Parameter(help="White where to paint, for the preprocessor inpaint.", negative="")
    ] = None
    control_weight: Annotated[list[float] | None, Parameter(help="How much of it; 1 if not given.", negative="")] = None
    control_start: Annotated[
        list[float] | None, Parameter(help="From which share of the steps, 0 to 1.", negative="")
    ] = None
    control_end: Annotated[list[float] | None, Parameter(help="To which share of the steps.", negative="")] = None
    control_fit: Annotated[list[str] | None, Parameter(help="If sizes differ: crop, stretch or pad.", negative="")] = (
        None
    )
    preprocess: Annotated[
        list[str] | None,
        Parameter(help="What makes the hint: NAME, or NAME,OPTION=NUMBER; see aquatint preprocess.", negative=""),
    ] = None
    image_encoder: Annotated[str | None, Parameter(help="CLIP's image half, a file or folder, for IP-Adapters.")] = None


def read_controls(controlling: Controlling | None) -> "tuple[Control, ...]":
    """The controls that the command line names, for the request."""
    if controlling is None or controlling == Controlling():
        return ()
    names = controlling.control or []
    if not names:
        raise UserError("Options of a control without --control.", "--control FILE, and --control-image PICTURE.")
    if not controlling.control_image:
        raise UserError("--control without a picture.", "--control-image PICTURE, one for all or one for each.")
    from aquatint.pipelines.control import Control
    from aquatint.pipelines.given import given
    from aquatint.pipelines.shelf import name_of

    count = len(names)
    images = _each("--control-image", [given(path) for path in controlling.control_image], count)
    ways = [read_preprocess(text) for text in _each("--preprocess", controlling.preprocess or ["none"], count)]
    inpaint = [name == "inpaint" for name, _ in ways]
    masks = [given(path) for path in controlling.control_mask or []]
    if len(masks) not in (sum(inpaint), 1) or (masks and not any(inpaint)):
        raise UserError(
            f"--control-mask {len(masks)} times, and --preprocess inpaint {sum(inpaint)} times.",
            "As many, or one mask.",
        )
    left = iter(_each("--control-mask", masks, sum(inpaint)) if masks else ())
    return tuple(
        Control(name_of(Path(name)), image, weight, start, end, way, options, next(left) if masked else None, fit)
        for name, image, weight, start, end, (way, options), masked, fit in zip(
            names,
            images,
            _each("--control-weight", controlling.control_weight or [1.0], count),
            _each("--control-start", controlling.control_start or [0.0], count),
            _each("--control-end", controlling.control_end or [1.0], count),
            ways,
            inpaint,
            _each("--control-fit", controlling.control_fit or ["crop"], count),
            strict=True,
        )
    )


def read_preprocess(text: str) -> tuple[str, tuple[tuple[str, float], ...]]:
    """ "canny,low=80" -> ("canny", (("low", 80.0),))."""
    name, *pairs = text.split(",")
    options = []
    for pair in pairs:
        option, _, number = pair.partition("=")
        try:
            options.append((option.strip(), float(number)))
        except ValueError:
            raise UserError(f'--preprocess "{text}".', "NAME, or NAME,OPTION=NUMBER as in canny,low=80.") from None
    return name.strip(), tuple(options)


def opening_controls(controlling: Controlling | None) -> dict[str, Any]:
    """What `load` is to open besides the model."""
    if controlling is None:
        return {}
    return {"controls": controlling.control or (), "image_encoder": controlling.image_encoder}


def recorded_controls(controlling: Controlling | None, record: "Record | None") -> dict[str, Any]:
    """As `opening_controls`, for a picture's record: each control that it used is looked for among the files by its
    sha256. So a file may have another name than it had."""
    options = opening_controls(controlling)
    if record is None or not options.get("controls"):
        return options
    from aquatint.weights.controls import open_control

    there = {open_control(path).digest: Path(path) for path in options["controls"]}
    used = {file.name: there[file.sha256] for file in record.files if file.sha256 in there and file.kind == "control"}
    return options | {"controls": used or {open_control(path).name: path for path in there.values()}}


def with_control_pictures(request: "Request", controlling: Controlling | None) -> "Request":
    """The request with the pictures of its controls at hand, found among those given by their pixels."""
    from aquatint.pipelines.given import given

    paths = [] if controlling is None else [*(controlling.control_image or ()), *(controlling.control_mask or ())]
    if (
        controlling is not None
        and replace(controlling, control=None, control_image=None, control_mask=None, image_encoder=None)
        != Controlling()
    ):
        raise UserError(
            "A control's weight, steps, fit or preprocessor for a picture that is painted again.",
            "--control, --control-image, --control-mask and --image-encoder: the record says the rest.",
        )
    there = {(found.sha256): found for found in map(given, paths)}

    def supplied(wanted: "Given", option: str) -> "Given":
        if wanted.sha256 not in there:
            raise UserError(
                f'The picture was steered by "{wanted.name}" (sha256 {wanted.sha256[:10]}).',
                "That file again: a record holds no pixels.",
                f"Give it with {option}.",
            )
        found = replace(there[wanted.sha256], name=wanted.name)
        object.__setattr__(found, "image", there[wanted.sha256].image)
        return found

    controls = tuple(
        replace(
            control,
            image=supplied(control.image, "--control-image"),
            mask=None if control.mask is None else supplied(control.mask, "--control-mask"),
        )
        for control in request.controls
    )
    return replace(request, controls=controls)


def check_controls(record: "Record | None", bundle: "Bundle", anyway: bool) -> None:
    """Whether the controls that a picture was painted with are at hand, and the same."""
    if record is None or anyway:
        return
    kinds = {"control": "--control FILE", "image encoder": "--image-encoder FILE"}
    tower = bundle.controls.tower_file
    now = {loaded.file.sha256 for loaded in bundle.controls.nets.values()} | ({tower.sha256} if tower else set())
    for file in record.files:
        if file.kind in kinds and file.sha256 not in now:
            raise UserError(
                f'The picture was painted with the {file.kind} "{file.name}" (sha256 {file.sha256[:10]}).',
                "That file again: a record names files and holds none.",
                f"Give it with {kinds[file.kind]}, or paint --anyway.",
            )


def described(path: Path) -> dict[str, Any] | None:
    """What a control's or image encoder's file holds, for `aquatint inspect`; None for a file that is neither."""
    from aquatint.weights.controls import KINDS, open_control
    from aquatint.weights.towers import open_tower

    try:
        file = open_control(path)
    except UserError:
        pass
    else:
        facts = {"kind": KINDS[file.kind], "names": file.dialect, "made_for": file.made_for}
        return {"path": str(path)} | facts | {"tensors": len(file.held.where), "sha256": file.digest}
    try:
        tower = open_tower(path)
    except UserError:
        return None
    config = tower.config
    told = f"{config.layers} layers, {config.width} wide, {config.heads} heads, {config.projection} numbers a picture"
    return {"path": str(path), "kind": "an image encoder", "tower": told, "sha256": tower.digest}


def _each(option: str, values: Sequence[T], count: int) -> Sequence[T]:
    """One value for each control: the one that is given for all, or as many as there are."""
    if len(values) not in (1, count):
        raise UserError(f"{option} {len(values)} times for {count} controls.", "Once for all, or once for each.")
    return list(values) * count if len(values) == 1 else values
