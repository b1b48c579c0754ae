"""The command, in process: what it writes, what it says, and how it ends."""

import io
import json
import shutil
import struct
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from tests.apps.command import run
from tests.fixtures import tiny_bundle

import aquatint
from aquatint import weights
from aquatint.apps import cli
from aquatint.apps.cli import generate as generating
from aquatint.base import images
from aquatint.pipelines import metadata
from aquatint.pipelines.bundle import Bundle
from aquatint.pipelines.vocabulary import Vocabulary


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A model on the disk, in our own format, that knows three words."""
    bundle = tiny_bundle(vocabulary=Vocabulary("tiny", {"subjects": ("apple", "cat")}, ("a", "red")))
    return str(aquatint.save(bundle, tmp_path_factory.mktemp("models") / "tiny"))


OPENED: dict[object, weights.Opened] = {}


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, model: str) -> None:
    """A folder of its own for every test, one thread, and the sound model opened only once."""
    real = weights.open_model

    def once(source: Any = None, **options: Any) -> weights.Opened:
        if str(source) != model:
            return real(source, **options)
        key = tuple(sorted(options.items(), key=str))
        OPENED[key] = OPENED.get(key) or real(source, **options)
        return OPENED[key]

    monkeypatch.setattr(weights, "open_model", once)
    monkeypatch.setenv("AQUATINT_THREADS", "1")
    monkeypatch.chdir(tmp_path)
    torch.set_num_threads(1)  # two threads on a busy machine wait for each other at every small operation


def pixels(path: Path) -> bytes:
    with Image.open(path) as picture:
        return picture.convert("RGB").tobytes()


def names(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def test_count_paints_what_single_calls_paint(capfd: pytest.CaptureFixture[str], model: str, tmp_path: Path) -> None:
    code, out, err = run(capfd, "generate", "a red apple", "--model", model, "--seed", 7, "--count", 3, "--out", "many")
    assert (code, err) == (0, "")
    assert [line.split()[:3] for line in out.splitlines()] == [
        [f"many/a-red-apple-{seed}.png", "seed", str(seed)] for seed in (7, 8, 9)
    ]
    for seed in (7, 8, 9):
        assert run(capfd, "generate", "a red apple", "--model", model, "--seed", seed, "--out", "one")[0] == 0
        name = f"a-red-apple-{seed}.png"
        assert (tmp_path / "many" / name).read_bytes() == (tmp_path / "one" / name).read_bytes()
    assert pixels(tmp_path / "many/a-red-apple-7.png") != pixels(tmp_path / "many/a-red-apple-8.png")


def test_nothing_is_overwritten(capfd: pytest.CaptureFixture[str], model: str, tmp_path: Path) -> None:
    for name in ("x.png", "x-2.png", "x-3.png"):
        code, out, _ = run(capfd, "generate", "a red apple", "--model", model, "--seed", 1, "--out", "x.png")
        assert code == 0
        assert out.startswith(f"{name}  seed 1")
    assert names(tmp_path) == ["x-2.png", "x-3.png", "x.png"]
    assert (tmp_path / "x.png").read_bytes() == (tmp_path / "x-2.png").read_bytes()


def test_several_pictures_to_one_files_name(capfd: pytest.CaptureFixture[str], model: str, tmp_path: Path) -> None:
    run(capfd, "generate", "a cat", "--model", model, "--seed", 1, "--count", 2, "--out", "in/x.jpg", "--steps", 2)
    assert names(tmp_path) == ["in", "in/x-1.jpg", "in/x-2.jpg"]


def test_json(capfd: pytest.CaptureFixture[str], model: str, tmp_path: Path) -> None:
    arguments = ("generate", "a cat", "--model", model, "--seed", 2**64 - 2, "--count", 2, "--json", "--steps", 2)
    code, out, err = run(capfd, *arguments, "--size", "72x64", "--format", "webp", "--out", tmp_path)
    assert (code, err) == (0, "")
    rows = [json.loads(line) for line in out.splitlines()]
    assert [row["seed"] for row in rows] == [2**64 - 2, 2**64 - 1]
    assert [(row["width"], row["height"]) for row in rows] == [(72, 64)] * 2
    for row in rows:
        assert row["path"].endswith(f"a-cat-{row['seed']}.webp")
        assert images.header(Path(row["path"]).read_bytes()).format == "webp"
        assert row["request"]["steps"] == 2
        assert row["model"]["name"] == "tiny"
        assert set(row["seconds"]) == {"total", "text", "steps", "decode"}


def test_a_seed_by_chance_is_printed(capfd: pytest.CaptureFixture[str], model: str) -> None:
    seeds = set()
    for _ in range(2):
        _, out, _ = run(capfd, "generate", "a cat", "--model", model, "--steps", 1, "--json")
        seeds.add(json.loads(out)["seed"])
    assert len(seeds) == 2
    assert all(0 <= seed < 2**32 for seed in seeds)


def test_standard_input_and_output(
    capfdbinary: pytest.CaptureFixture[bytes], model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("a red apple\n"))
    assert cli.main(["generate", "-", "--model", model, "--seed", "3", "--out", "-", "--steps", "2"]) == 0
    out, err = capfdbinary.readouterr()
    found = metadata.find(images.decode(out))
    assert found.infotext is not None
    assert found.infotext.startswith("a red apple\nSteps: 2")
    assert err.startswith(b"-  seed 3")


def test_words_it_does_not_know_are_told(capfd: pytest.CaptureFixture[str], model: str) -> None:
    code, _, err = run(capfd, "generate", "a red dragon", "--model", model, "--steps", 1)
    assert code == 0
    assert err == "note: The tiny model has not learned: dragon.\n"


BAD: list[tuple[list[object], str]] = [
    (["generate", ""], "The prompt is empty."),
    (["generate", "x" * 100_000], "100,000 characters"),
    (["generate", "a cat", "--sampler", "dpmpp2m"], 'Did you mean "dpmpp_2m"?'),
    (["generate", "a cat", "--grid", "karas"], 'Did you mean "karras"?'),
    (["generate", "a cat", "--steps", 0], "steps = 0."),
    (["generate", "a cat", "--steps", "many"], 'unable to convert "many" into int'),
    (["generate", "a cat", "--size", "0x64"], "width = 0."),
    (["generate", "a cat", "--size", "7x64"], "width = 7."),
    (["generate", "a cat", "--size", "64x1000000000"], "height = 1000000000."),
    (["generate", "a cat", "--size", "64"], "WIDTHxHEIGHT"),
    (["generate", "a cat", "--size", "100x64"], "A multiple of 8."),
    (["generate", "a cat", "--guidance", "nan"], "guidance = nan."),
    (["generate", "a cat", "--guidance", "1e9"], "from 0 to 100"),
    (["generate", "a cat", "--seed", -1], "seed = -1."),
    (["generate", "a cat", "--seed", 2**64], "seed = 18446744073709551616."),
    (["generate", "a cat", "--seed", 2**64 - 1, "--count", 2], "seed = 18446744073709551616."),
    (["generate", "a cat", "--count", 0], "--count 0."),
    (["generate", "a cat", "--count", 10**9], "--count 1000000000."),
    (["generate", "a cat", "--sampler", "heun", "--eta", 0.5], "takes no eta"),
    (["generate", "a cat", "--format", "gif"], 'picture format "gif" is not known.'),
    (["generate", "a cat", "--out", "x.gif"], "no format that aquatint writes"),
    (["generate", "a cat", "--out", "x.png", "--format", "webp"], "do not agree"),
    (["generate", "a cat", "--out", "-", "--count", 2], "2 pictures to standard output"),
    (["generate", "a cat", "--out", "file/x.png"], "cannot be made. A part of the path is a file"),
    (["generate", "a cat", "--out", "/proc/pictures"], "cannot be made"),
    (["generate", "a cat", "--device", "gpu"], 'device "gpu" is not known.'),
    (["generate", "a cat", "--dtype", "int8"], 'dtype "int8" is not known.'),
    (["generate", "a cat", "--threads", 0], '"0" threads.'),
    (["generate", "a cat", "--model", "nothing/here"], "nothing"),
    (["generate", "a cat", "--model", "./nothing"], "nothing"),
    (["generate", "a cat", "--model", "file"], "file"),
    (["generate", "a cat", "--count", "2", "--colour", "red"], "Unknown option: --colour."),
    (["generate"], "There is no prompt."),
    (["generate", "a cat", "--prompts", "file"], "A prompt and --prompts."),
    (["generate", "--prompts", "nothing.txt"], "It is not there."),
    (["generate", "a cat", "--replay", "forge"], 'replay profile "forge" is not known.'),
    (["generate", "a cat", "--sign", "file"], "--sign or --key alone."),
    (["generate", "a cat", "--sign", "file", "--key", "file"], "no PEM file"),
    (["sheet"], "There is no picture."),
    (["sheet", "plain.png", "--cell", 1], "--cell 1."),
    (["sheet", "plain.png", "--columns", 0], "0 columns"),
    (["info", "file"], "not a picture"),
    (["models", "nothing"], "nothing"),
    (["generte", "a cat"], 'Unknown command "generte".'),
    (["again", "nothing.png"], "cannot be read. It is not there."),
    (["again", "file"], "This is not a picture"),
    (["again", "plain.png"], "does not say how it was made"),
    (["again", "foreign.png"], "painted by another program"),
    (["again", "."], "is a folder"),
    (["inspect", "nothing"], "nothing"),
    (["inspect", "file"], "file"),
    (["inspect", "damaged.png"], "not a picture"),
    (["convert", "nothing", "out"], "nothing"),
]


@pytest.mark.parametrize(("arguments", "says"), BAD)
def test_a_mistake_gets_one_clear_error(
    capfd: pytest.CaptureFixture[str], model: str, tmp_path: Path, arguments: list[object], says: str
) -> None:
    (tmp_path / "file").write_text("not a model")
    Image.new("RGB", (8, 8)).save(tmp_path / "plain.png")
    (tmp_path / "damaged.png").write_bytes((tmp_path / "plain.png").read_bytes()[:12])
    foreign(tmp_path / "foreign.png")
    before = names(tmp_path)
    if arguments[0] == "generate" and "--model" not in arguments:
        arguments = [*arguments, "--model", model]
    code, out, err = run(capfd, *arguments)
    assert code == 2, err
    assert out == ""
    assert says in err
    assert err.startswith("aquatint: ")
    assert err.count("\n") == 1
    assert "Traceback" not in err
    assert names(tmp_path) == before


def foreign(path: Path) -> None:
    """A picture as the web UI leaves it."""
    from PIL.PngImagePlugin import PngInfo

    chunks = PngInfo()
    chunks.add_text("parameters", "a cat\nSteps: 2, Sampler: Euler a, CFG scale: 7, Seed: 1, Size: 64x64")
    Image.new("RGB", (64, 64)).save(path, pnginfo=chunks)


def never(*_: object, **__: object) -> Bundle:
    raise AssertionError("a model was opened before the output was known to be writable")


@pytest.mark.parametrize("out", ["/proc/x", "file/x.png", "/dev/null/x"])
def test_an_unwritable_place_is_found_before_anything_is_opened(
    capfd: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, out: str
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(generating, "open_bundle", never)
    assert run(capfd, "generate", "a cat", "--out", out)[0] == 2


def harmed(model: str, tmp_path: Path, harm: str) -> Path:
    """A copy of the model with one thing wrong."""
    folder = tmp_path / "harmed"
    shutil.copytree(model, folder)
    weights = folder / "model.safetensors"
    data = weights.read_bytes()
    (start,) = struct.unpack_from("<Q", data)
    if harm == "truncated":
        weights.write_bytes(data[:-1000])
    elif harm == "no weights":
        weights.unlink()
    elif harm == "no tokenizer":
        shutil.rmtree(folder / "tokenizer")
    elif harm == "nan":
        weights.write_bytes(data[:-4] + struct.pack("<f", float("nan")))
    elif harm == "header":
        weights.write_bytes(data[:8] + b"{" + data[9 : 8 + start // 2] + b"\xff" + data[9 + start // 2 :])
    elif harm == "pickle":
        weights.unlink()
        torch.save({"state_dict": {}}, folder / "model.ckpt")
        return folder / "model.ckpt"
    elif harm == "mislabelled":
        weights.write_bytes(b"GIF89a" + data)
    return folder


@pytest.mark.parametrize("harm", ["truncated", "no weights", "no tokenizer", "nan", "header", "pickle", "mislabelled"])
@pytest.mark.parametrize("command", ["generate", "convert"])
def test_a_damaged_model_gets_one_clear_error(
    capfd: pytest.CaptureFixture[str], model: str, tmp_path: Path, harm: str, command: str
) -> None:
    path = harmed(model, tmp_path, harm)
    before = names(tmp_path)
    arguments = ["generate", "a cat", "--model", path] if command == "generate" else ["convert", path, "out"]
    code, out, err = run(capfd, *arguments)
    assert code == 2, err
    assert out == ""
    assert err.startswith("aquatint: ")
    assert "Traceback" not in err
    assert names(tmp_path) == before


def test_ctrl_c_leaves_nothing_behind(
    capfd: pytest.CaptureFixture[str], model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, calls = Bundle.decode, []

    def interrupted(self: Bundle, latents: torch.Tensor) -> Any:
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return real(self, latents)

    monkeypatch.setattr(Bundle, "decode", interrupted)
    arguments = ("generate", "a cat", "--model", model, "--steps", 2, "--preview", "--seed", 1, "--out", "x")
    assert run(capfd, *arguments, "--count", 2)[0] == 130
    assert names(tmp_path) == ["x", "x/a-cat-1.png"]  # the finished one stays
    calls.append(1)
    monkeypatch.setattr(Bundle, "decode", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    code, out, err = run(capfd, "generate", "a cat", "--model", model, "--steps", 2, "--out", "y")
    assert (code, out, err) == (130, "", "aquatint: Stopped.\n")
    assert not (tmp_path / "y").exists()


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (RuntimeError("a [bold] surprise\nwith more"), "RuntimeError: a [bold] surprise (test_command.py:"),
        (MemoryError(), "not enough memory"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"), "not enough memory"),
    ],
)
def test_a_fault_of_ours_exits_with_1(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, error: Exception, says: str
) -> None:
    def fail(*_: object) -> Bundle:
        raise error

    monkeypatch.setattr(generating, "open_bundle", fail)
    code, _, err = run(capfd, "generate", "a cat")
    assert code == 1
    assert says in err
    assert "Traceback" not in err
    monkeypatch.setenv("AQUATINT_DEBUG", "1")
    assert "Traceback" in run(capfd, "generate", "a cat")[2]


class Terminal(io.StringIO):
    """A text stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


def test_progress_and_preview_on_a_terminal(
    model: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    screen = Terminal()
    monkeypatch.setattr(sys, "stderr", screen)
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.delenv("NO_COLOR", raising=False)
    arguments = ["generate", "a cat", "--model", model, "--seed", "5", "--count", "2", "--preview", "--steps", "4"]
    assert cli.main(arguments) == 0
    shown = screen.getvalue()
    assert "picture 2 of 2, seed 6" in shown
    assert "4/4" in shown
    assert "▀" in shown
    out = capsys.readouterr().out
    assert [line.split()[0] for line in out.splitlines()] == ["pictures/a-cat-5.png", "pictures/a-cat-6.png"]


def test_preview_without_a_terminal_is_a_file(
    capfd: pytest.CaptureFixture[str], model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from aquatint.base import files

    seen = []
    real = files.write

    def watch(path: Path, data: Any, **options: Any) -> str:
        seen.append((path.name, images.header(data).width))
        return real(path, data, **options)

    monkeypatch.setattr(files, "write", watch)
    code, _, err = run(capfd, "generate", "a cat", "--model", model, "--seed", 5, "--preview", "--out", tmp_path)
    assert (code, err) == (0, "")
    assert seen == [("a-cat-5.preview.png", 64)] * 3 + [("a-cat-5.png", 64)]
    assert names(tmp_path) == ["a-cat-5.png"]


@pytest.mark.parametrize("format", ["png", "jpg", "webp"])
def test_again_paints_the_same_pixels(
    capfd: pytest.CaptureFixture[str], model: str, tmp_path: Path, format: str
) -> None:
    first, second = tmp_path / f"a.{format}", tmp_path / f"a-again.{format}"
    options = ("--steps", 3, "--sampler", "euler_a", "--negative", "a cat", "--size", "72x64", "--rescale", 0.5)
    assert run(capfd, "generate", 'a "red", apple', "--model", model, "--seed", 9, "--out", first, *options)[0] == 0
    code, out, err = run(capfd, "again", first, "--model", model)
    assert (code, err) == (0, "")
    assert out == f"{second}  seed 9  equal bit for bit\n"
    assert second.read_bytes() == first.read_bytes()
    code, out, _ = run(capfd, "again", first, "--model", model, "--check", "--json")
    assert code == 0
    assert json.loads(out)["equal"] is True
    assert names(tmp_path) == [f"a-again.{format}", f"a.{format}"]


def test_again_says_when_pixels_differ(capfd: pytest.CaptureFixture[str], model: str, tmp_path: Path) -> None:
    run(capfd, "generate", "a cat", "--model", model, "--seed", 9, "--out", "a.png", "--steps", 2)
    with Image.open("a.png") as picture:
        picture.load()
        text = dict(picture.text)  # type: ignore[attr-defined]
        picture.putpixel((3, 3), tuple(255 - value for value in picture.getpixel((3, 3))))
        from PIL.PngImagePlugin import PngInfo

        chunks = PngInfo()
        chunks.add_text("aquatint", text["aquatint"])
        picture.save("b.png", pnginfo=chunks)
    code, out, _ = run(capfd, "again", "b.png", "--model", model, "--check")
    assert code == 1
    assert "different: by at most" in out
    run(capfd, "again", "b.png", "--model", model, "--out", "c.png")
    assert pixels(tmp_path / "c.png") == pixels(tmp_path / "a.png")


def test_again_with_other_weights_is_refused(capfd: pytest.CaptureFixture[str], model: str, tmp_path: Path) -> None:
    run(capfd, "generate", "a cat", "--model", model, "--seed", 9, "--out", "a.png", "--steps", 2)
    other = aquatint.save(tiny_bundle(seed=1), tmp_path / "other")
    code, _, err = run(capfd, "again", "a.png", "--model", other)
    assert code == 2
    assert "The picture was painted by" in err
    assert "The same weights." in err
    code, out, err = run(capfd, "again", "a.png", "--model", other, "--anyway")
    assert code == 0
    assert "different" in out
    assert err.startswith("note: The picture was painted by")
    code, _, err = run(capfd, "again", "a.png")
    assert code == 2
    assert "Name it with --model." in err


def test_again_names_what_differs_in_the_key(
    capfd: pytest.CaptureFixture[str], model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from aquatint.base import runtime
    from aquatint.engines.choice import choose_engine

    run(capfd, "generate", "a cat", "--model", model, "--seed", 9, "--out", "a.png", "--steps", 2)
    painted = runtime.NUMERICS
    monkeypatch.setattr(runtime, "NUMERICS", 99)
    code, out, err = run(capfd, "again", "a.png", "--model", model, "--dtype", "bfloat16")
    assert code == 0
    changed = f"numerics {painted} -> 99, dtype float32 -> bfloat16"
    if (ours := choose_engine().name) != "torch":
        changed += f", engine {ours} -> torch"
    assert err == f"note: the reproduction key differs, so bits may: {changed}\n"
    assert "different" in out
    monkeypatch.setenv("AQUATINT_THREADS", "3")  # the threads of the picture are taken, not these
    assert "threads" not in run(capfd, "again", "a.png", "--model", model)[2]


def test_again_of_a_foreign_picture_needs_a_model(
    capfd: pytest.CaptureFixture[str], model: str, tmp_path: Path
) -> None:
    foreign(tmp_path / "a.png")
    assert run(capfd, "again", "a.png")[0] == 2
    code, out, err = run(capfd, "again", "a.png", "--model", model)
    assert code == 0
    assert err == ""
    assert out.startswith("a-again.png  seed 1  different")
    with Image.open("a-again.png") as picture:
        assert "Sampler: Euler a" in picture.text["parameters"]  # type: ignore[attr-defined]


def test_inspect_a_picture(capfd: pytest.CaptureFixture[str], model: str, tmp_path: Path) -> None:
    run(capfd, "generate", "a cat\nin lines", "--model", model, "--seed", 9, "--out", "a.webp", "--steps", 2)
    code, out, _ = run(capfd, "inspect", "a.webp", "--json")
    facts = json.loads(out)
    assert code == 0
    assert facts["made_by_ai"] is True
    assert facts["record"]["request"]["seeds"] == [9]
    assert facts["parameters"]["settings"]["Seed"] == "9"
    code, out, _ = run(capfd, "inspect", "a.webp")
    assert code == 0
    assert "in lines" in out


def test_inspect_and_convert_a_model(capfd: pytest.CaptureFixture[str], model: str, tmp_path: Path) -> None:
    code, out, _ = run(capfd, "inspect", model)
    assert code == 0
    assert "TINY" in out
    code, out, _ = run(capfd, "inspect", model, "--json")
    assert json.loads(out)["complete"] is True
    code, out, _ = run(capfd, "convert", model, "single.safetensors", "--format", "compvis")
    assert (code, out) == (0, "single.safetensors\n")
    code, _, _ = run(capfd, "convert", "single.safetensors", "back", "--format", "native")
    assert code == 0
    digests = set()
    for source in (model, "single.safetensors", "back"):
        row = run(
            capfd,
            "generate",
            "a cat",
            "--model",
            source,
            "--seed",
            1,
            "--size",
            "64x64",
            "--steps",
            2,
            "--json",
            "--sampler",
            "ddim",
            "--guidance",
            3,
        )[1]
        digests.add(json.loads(row)["pixels_sha256"])
    assert len(digests) == 1
    code, _, err = run(capfd, "convert", model, "back")
    assert code == 2
    assert "exists already" in err
    code, _, err = run(capfd, "convert", model, "x", "--format", "gguf")
    assert code == 2
    assert "gguf" in err


def test_half_precision_stays_half(capfd: pytest.CaptureFixture[str], model: str) -> None:
    assert run(capfd, "convert", model, "half", "--dtype", "float16")[0] == 0
    assert run(capfd, "convert", "half", "half2")[0] == 0
    plan = json.loads(run(capfd, "inspect", "half2", "--json")[1])
    assert {kind for part in plan["parts"].values() for kind in part["dtypes"]} == {"F16"}


def test_lists(capfd: pytest.CaptureFixture[str], model: str) -> None:
    for command, word in (("samplers", "dpmpp_2m"), ("grids", "karras"), ("families", "SD15")):
        code, out, _ = run(capfd, command)
        assert code == 0
        assert word in out
        assert word in [row["name"] for row in json.loads(run(capfd, command, "--json")[1])]
    assert run(capfd, "vocabulary", "--model", model)[1] == "subjects: apple, cat\n"
    assert json.loads(run(capfd, "vocabulary", "--model", model, "--json")[1])["others"] == ["a", "red"]
    facts = json.loads(run(capfd, "version", "--json")[1])
    assert facts["aquatint"] == aquatint.__version__
    assert facts["torch"] == torch.__version__
