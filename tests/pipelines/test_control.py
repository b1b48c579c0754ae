"""Controls in pictures: what they change and leave, when they act, what is recorded, and what is refused."""

import hashlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from tests.fixtures import tiny_bundle, tiny_with
from tests.weights import control_files
from tests.weights.control_files import write
from torch import nn

from aquatint.base import config
from aquatint.base.errors import UserError
from aquatint.diffusion.samplers import SAMPLERS
from aquatint.families import TINY
from aquatint.nets.unet import Stage, UNetConfig
from aquatint.pipelines.bundle import Bundle, load, save
from aquatint.pipelines.control import Control, checked
from aquatint.pipelines.edit import Edit
from aquatint.pipelines.generate import generate
from aquatint.pipelines.given import Given, given
from aquatint.pipelines.picture import Picture
from aquatint.pipelines.record import record_from
from aquatint.pipelines.request import Request, from_words
from aquatint.pipelines.steering import open_controls, steering

SIDE = 64
KINDS = ("canny", "shapes", "sketch", "style", "face")  # two ControlNets, a T2I-Adapter, a plain and a plus IP-Adapter


def picture(seed: int = 0, width: int = SIDE, height: int = SIDE) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


HINT, OTHER = given(picture(1), "hint"), given(picture(2), "other")


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("controls")
    write(folder / "canny.safetensors", control_files.control(TINY, 1))
    write(folder / "shapes.safetensors", control_files.control(TINY, 2, channels=1), "diffusers")
    write(folder / "sketch.safetensors", control_files.adapter(TINY, 3, channels=1))
    write(folder / "style.safetensors", control_files.prompt(TINY, 4))
    write(folder / "face.safetensors", control_files.prompt(TINY, 5, plus=True))
    write(folder / "clip.safetensors", control_files.tower())
    return folder


@pytest.fixture(scope="module")
def bundle(files: Path) -> Bundle:
    return steered(tiny_bundle(), files, KINDS)


def steered(bundle: Bundle, files: Path, names: tuple[str, ...]) -> Bundle:
    opened = open_controls([files / f"{name}.safetensors" for name in names], files / "clip.safetensors")
    return replace(bundle, controls=opened.built(bundle.family, bundle.device, bundle.dtype, bundle.engine))


def painted(bundle: Bundle, *controls: Control, prompt: str = "a red apple", **wishes: object) -> Picture:
    wishes = {"steps": 4, "seeds": (7,)} | wishes
    *_, last = generate(bundle, Request(prompt, controls=controls, **wishes))  # type: ignore[arg-type]
    assert last.picture is not None
    return last.picture


def bits(found: Picture) -> bytes:
    return found.image.tobytes()


def digest(*modules: nn.Module) -> str:
    sums = hashlib.sha256()
    for module in modules:
        for tensor in module.state_dict().values():
            sums.update(tensor.numpy().tobytes())
    return sums.hexdigest()


@pytest.mark.parametrize("name", KINDS)
def test_a_control_changes_the_picture_and_not_the_bundle(bundle: Bundle, name: str) -> None:
    before, plain = digest(bundle.unet), bits(painted(bundle))
    once = bits(painted(bundle, Control(name, HINT)))
    assert once != plain
    assert bits(painted(bundle, Control(name, HINT, weight=0.5))) not in (once, plain)
    assert bits(painted(bundle, Control(name, OTHER))) != once
    assert bits(painted(bundle, Control(name, HINT))) == once
    with pytest.raises(UserError):
        painted(bundle, Control(name, HINT), Control("nobody", HINT))
    assert bits(painted(bundle)) == plain
    assert digest(bundle.unet) == before


@pytest.mark.parametrize("name", KINDS)
def test_weight_zero_is_without_bit_for_bit(bundle: Bundle, name: str) -> None:
    for weight in (0.0, -0.0):
        assert bits(painted(bundle, Control(name, HINT, weight))) == bits(painted(bundle))
    only = painted(bundle, Control("canny", HINT))
    assert bits(painted(bundle, Control("canny", HINT), Control(name, OTHER, 0.0))) == bits(only)


def test_the_order_does_not_matter(bundle: Bundle) -> None:
    controls = [Control(name, image, 0.4) for name in KINDS for image in (HINT, OTHER)]
    first = painted(bundle, *controls)
    assert bits(painted(bundle, *controls[::-1])) == bits(first)
    assert bits(painted(bundle, *controls[:-1])) != bits(first)


@pytest.mark.parametrize("name", KINDS)
def test_a_picture_does_not_depend_on_its_company(bundle: Bundle, name: str) -> None:
    control = Control(name, HINT, 0.8, end=0.5)
    request = Request("a red apple", seeds=(5, 7, 9), steps=4, controls=(control,))
    together = [step.picture for step in generate(bundle, request) if step.picture]
    assert [bits(found) for found in together] == [bits(painted(bundle, control, seeds=(seed,))) for seed in (5, 7, 9)]


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_every_sampler(bundle: Bundle, sampler: str) -> None:
    """A control of the first half changes where the path goes; the net without it is asked from there on."""
    control = Control("canny", HINT, 0.5, end=0.5)
    wishes = {"sampler": sampler, "steps": 2, "width": 32, "height": 32}
    assert bits(painted(bundle, control, **wishes)) != bits(painted(bundle, **wishes))


def test_start_and_end_are_shares_of_the_steps(bundle: Bundle) -> None:
    def nets(control: Control, **wishes: object) -> list[int]:
        request = Request("a cat", controls=(control,), **wishes)  # type: ignore[arg-type]
        return [span.until for span in steering(bundle, request.resolved(bundle.family)).spans]

    assert nets(Control("canny", HINT), steps=8) == [8]
    assert nets(Control("canny", HINT, end=0.5), steps=8) == [4, 8]
    assert nets(Control("canny", HINT, start=0.25, end=0.5), steps=8) == [2, 4, 8]
    edit = Edit(given(picture()), strength=0.5)
    assert nets(Control("canny", HINT, end=0.5), steps=8, edit=edit) == [2, 4]


def test_half_a_path_ends_as_the_other_net_leads_it(bundle: Bundle) -> None:
    """With ddim and one step before the end, the last step alone is without the control."""
    latter = Control("canny", HINT, start=0.5)
    first = Control("canny", HINT, end=0.5)
    whole = Control("canny", HINT)
    found = {bits(painted(bundle, *rows)) for rows in ((latter,), (first,), (whole,), ())}
    assert len(found) == 4
    assert bits(painted(bundle, first, latter)) == bits(painted(bundle, whole))


def test_two_pictures_for_one_ip_adapter(bundle: Bundle) -> None:
    both = painted(bundle, Control("style", HINT, 0.5), Control("style", OTHER, 0.5))
    assert bits(both) != bits(painted(bundle, Control("style", HINT, 0.5)))
    twice = painted(bundle, Control("style", HINT, 0.5), Control("style", HINT, 0.5))
    apart = np.asarray(twice.image).astype(int) - np.asarray(painted(bundle, Control("style", HINT)).image).astype(int)
    assert np.abs(apart).max() <= 1  # the same sum, rounded otherwise


@pytest.mark.parametrize(
    "wishes",
    [
        {"guidance": 1.0},
        {"prompt": "a red apple AND two cats"},
        {"prompt": "[a red apple:two cats:0.5]"},
        {"prompt": "a red apple BREAK two cats in the snow"},
        {"edit": Edit(given(picture()), strength=0.5)},
        {"edit": Edit(given(picture()), mask=given(Image.new("L", (SIDE, SIDE), 255)))},
        {"sampler": "euler_cfg_pp"},
    ],
    ids=str,
)
def test_together_with_everything_else(bundle: Bundle, wishes: dict[str, object]) -> None:
    if wishes.get("sampler") not in (None, *SAMPLERS):
        pytest.skip("no such sampler")
    controls = [Control(name, HINT, 0.5, start=0.25) for name in KINDS]
    found = painted(bundle, *controls, **wishes)  # type: ignore[arg-type]
    assert bits(found) != bits(painted(bundle, **wishes))  # type: ignore[arg-type]
    assert bits(found) == bits(painted(bundle, *controls, **wishes))  # type: ignore[arg-type]


def test_inpainting_nets_and_their_further_channels(files: Path) -> None:
    family = tiny_with(unet=replace(TINY.unet, channels_in=9))
    inpaint = steered(tiny_bundle(family), files, ("canny", "style"))
    mask = Image.new("L", (SIDE, SIDE))
    mask.paste(255, (8, 8, 40, 40))
    hint = Control("canny", HINT, preprocess="inpaint", mask=given(mask))
    assert bits(painted(inpaint, hint)) != bits(painted(inpaint))
    assert bits(painted(inpaint, hint)) != bits(painted(inpaint, Control("canny", HINT)))
    assert bits(painted(inpaint, Control("style", HINT))) != bits(painted(inpaint))


def test_the_shape_of_xl(tmp_path: Path) -> None:
    """A U-Net that is told a vector, does not attend at full size, and takes T2I-Adapters at a sixteenth."""
    unet = UNetConfig(
        stages=(Stage(16, 1, depth=0), Stage(32, 2, depth=2), Stage(32, 2, depth=1)), middle=1, blocks=1, context=32,
        vector=32, linear=True, groups=8,
    )  # fmt: skip
    family = tiny_with(unet=unet)
    write(tmp_path / "canny.safetensors", control_files.control(family, 1), "diffusers XL")
    write(tmp_path / "style.safetensors", control_files.prompt(family, 4))
    write(tmp_path / "sketch.safetensors", control_files.adapter(family, 3))
    write(tmp_path / "clip.safetensors", control_files.tower())
    large = steered(tiny_bundle(family), tmp_path, ("canny", "style", "sketch"))
    for name in ("canny", "style", "sketch"):
        assert bits(painted(large, Control(name, HINT))) != bits(painted(large))
    with pytest.raises(UserError, match="multiples of 16"):
        painted(large, Control("sketch", HINT), width=72)


class TestSizes:
    def test_a_picture_of_another_size_is_cropped(self, bundle: Bundle) -> None:
        wide = given(picture(3, 2 * SIDE, SIDE), "wide")
        middle = given(wide.pixels.crop((SIDE // 2, 0, SIDE // 2 + SIDE, SIDE)), "middle")
        assert bits(painted(bundle, Control("canny", wide))) == bits(painted(bundle, Control("canny", middle)))
        found = {bits(painted(bundle, Control("canny", wide, fit=fit))) for fit in ("crop", "stretch", "pad")}
        assert len(found) == 3

    def test_other_sizes_of_the_request(self, bundle: Bundle) -> None:
        for name in KINDS:
            found = painted(bundle, Control(name, HINT), width=40, height=72)
            assert found.image.size == (40, 72)

    def test_painting_a_part_cuts_hints_of_the_whole(self, bundle: Bundle) -> None:
        """With "only masked", the net is shown what lies where it paints."""
        mask = Image.new("L", (2 * SIDE, 2 * SIDE))
        mask.paste(255, (40, 40, 72, 72))
        edit = Edit(
            given(picture(3, 2 * SIDE, 2 * SIDE)), mask=given(mask), masked=True, padding=16, blur=0, strength=1
        )
        whole = given(picture(4, 2 * SIDE, 2 * SIDE), "whole")
        part = given(whole.pixels.crop((24, 24, 88, 88)), "part")
        shown = [Control("canny", image, preprocess="canny") for image in (whole, part)]
        first, second = (bits(painted(bundle, control, edit=edit, width=SIDE, height=SIDE)) for control in shown)
        assert first == second
        assert first != bits(painted(bundle, edit=edit, width=SIDE, height=SIDE))

    def test_preprocessors(self, bundle: Bundle) -> None:
        ways = ({}, {"preprocess": "invert"}, {"preprocess": "canny", "options": (("low", 20.0),)})
        assert len({bits(painted(bundle, Control("canny", HINT, **way))) for way in ways}) == 3  # type: ignore[arg-type]


class TestRecords:
    def test_the_record_names_files_and_pictures(self, bundle: Bundle, files: Path) -> None:
        found = painted(bundle, Control("canny", HINT, 0.7, end=0.5), Control("style", OTHER))
        text = config.to_json(found.record)
        assert str(files) not in text
        record = record_from(text)
        assert record == found.record
        canny, style = record.request.controls
        assert (canny.name, canny.weight, canny.end) == ("canny", 0.7, 0.5)
        assert (style.image.name, style.image.sha256) == ("other", OTHER.sha256)
        kinds = {(file.kind, file.name): file.sha256 for file in record.files}
        whole = hashlib.sha256((files / "canny.safetensors").read_bytes()).hexdigest()
        assert kinds[("control", "canny")] == whole
        assert ("image encoder", "clip") in kinds
        with pytest.raises(UserError, match="not at hand"):
            painted(bundle, *record.request.controls)

    def test_requests_survive_json(self) -> None:
        mask = given(Image.new("L", (SIDE, SIDE), 255), "mask")
        controls = (
            Control("canny", HINT, -1.5, 0.1, 0.9, "canny", (("high", 90.0), ("low", 20.0)), fit="pad"),
            Control("inpaint", OTHER, preprocess="inpaint", mask=mask),
        )
        request = Request("a cat", controls=controls)
        assert config.from_json(Request, config.to_json(request)) == request

    def test_a_request_without_controls_says_so_little(self) -> None:
        assert from_words({"prompt": "a cat"}) == Request("a cat")
        assert config.to_data(Request("a cat"))["controls"] == []


@pytest.mark.parametrize(
    ("wishes", "told"),
    [
        ({"weight": float("nan")}, "weight"),
        ({"weight": 11}, "weight"),
        ({"start": -0.1}, "start"),
        ({"end": 1.1}, "end"),
        ({"start": 0.5, "end": 0.5}, "before the end"),
        ({"start": 1}, "before the end"),
        ({"preprocess": "cany"}, 'Did you mean "canny"'),
        ({"preprocess": "canny", "options": (("lo", 1.0),)}, "no option"),
        ({"preprocess": "canny", "options": (("low", -1.0),)}, "low = -1"),
        ({"preprocess": "canny", "options": (("low", 1.0), ("low", 2.0))}, "twice"),
        ({"preprocess": "inpaint"}, "mask"),
        ({"mask": HINT}, "mask"),
        ({"preprocess": "inpaint", "mask": given(picture(0, 32, 32))}, "32 x 32"),
        ({"name": "../canny"}, "without folder"),
        ({"name": "a\\b"}, "without folder"),
        ({"name": ""}, "without folder"),
        ({"name": "n" * 300}, "without folder"),
    ],
    ids=str,
)
def test_odd_controls(wishes: dict[str, object], told: str) -> None:
    with pytest.raises(UserError, match=told):
        Control(**({"name": "canny", "image": HINT} | wishes))  # type: ignore[arg-type]


def test_odd_lists() -> None:
    for controls in ("canny", Control("canny", HINT), 5, [5], [Control("canny", HINT)] * 17):
        with pytest.raises(UserError, match="controls"):
            checked(controls)


@pytest.mark.parametrize("change", [{"weight": "1"}, {"weight": True}, {"fit": "squeeze"}, {"image": "hint"}, {"x": 1}])
def test_odd_records(change: dict[str, object]) -> None:
    with pytest.raises(UserError, match=next(iter(change))):
        config.from_data(Control, config.to_data(Control("canny", HINT)) | change)


class TestRefused:
    """Before any step is made: `generate` raises, not the first `next`."""

    def refused(self, bundle: Bundle, told: str, *controls: Control, **wishes: object) -> None:
        with pytest.raises(UserError, match=told):
            generate(bundle, Request("a cat", controls=controls, **wishes))  # type: ignore[arg-type]

    def test_what_cannot_be(self, bundle: Bundle, files: Path) -> None:
        self.refused(bundle, 'Did you mean "canny"', Control("cany", HINT))
        self.refused(tiny_bundle(), "None was opened", Control("canny", HINT))
        self.refused(bundle, "none of the 4 steps", Control("canny", HINT, start=0.9), steps=4)
        self.refused(bundle, "not at hand", Control("canny", Given("x", 8, 8, "0" * 64)))
        self.refused(bundle, "IP-Adapter", Control("style", HINT, preprocess="canny"))
        blind = replace(bundle, controls=replace(bundle.controls, tower=None))
        self.refused(blind, "image encoder", Control("style", HINT))
        narrow = replace(control_files.TOWER, projection=20, width=128, heads=1)
        other = control_files.filled(type(bundle.controls.tower)(narrow))  # type: ignore[misc]
        for name in ("style", "face"):
            wrong = replace(bundle, controls=replace(bundle.controls, tower=other))  # type: ignore[arg-type]
            self.refused(wrong, "image encoder", Control(name, HINT))

    def test_files_of_another_family(self, files: Path, tmp_path: Path) -> None:
        family = tiny_with(unet=replace(TINY.unet, context=48))
        for name in ("canny", "style"):
            with pytest.raises(UserError, match="made for"):
                steered(tiny_bundle(family), files, (name,))
        with pytest.raises(UserError, match="A list"):
            open_controls("canny.safetensors")
        twin = write(tmp_path / "canny.safetensors", control_files.control(TINY, 9))
        with pytest.raises(UserError, match="Two controls"):
            open_controls([files / "canny.safetensors", twin])


def test_load_opens_them(files: Path, tmp_path: Path) -> None:
    model = save(tiny_bundle(), tmp_path / "tiny")
    paths = [files / f"{name}.safetensors" for name in KINDS]
    opened = load(model, controls=paths, image_encoder=files / "clip.safetensors", threads=1)
    assert set(opened.controls.nets) == set(KINDS)
    assert opened.controls.tower is not None
    named = load(model, controls={"edges": paths[0]}, threads=1)
    assert set(named.controls.nets) == {"edges"}
    save_file({"x": torch.ones(1)}, tmp_path / "x.safetensors")
    with pytest.raises(UserError, match="no control"):
        load(tmp_path / "no model at all", controls=[tmp_path / "x.safetensors"])
    half = load(model, controls=paths, image_encoder=files / "clip.safetensors", threads=1, dtype="bfloat16")
    assert bits(painted(half, Control("canny", HINT), Control("style", HINT))) != bits(painted(half))
