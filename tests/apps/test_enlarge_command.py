"""The command's options for larger pictures and variations, `again` for what they made, and `aquatint upscale`."""

import json
from pathlib import Path

import diffusers
import numpy as np
import pytest
import torch
from PIL import Image
from tests.apps.command import run
from tests.fixtures import tiny_bundle
from tests.parity.peers import randomise
from tests.weights.upscaler_files import new_layout

import aquatint
from aquatint.base import images
from aquatint.pipelines import metadata


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model, an upscaler, a tiny autoencoder."""
    home = tmp_path_factory.mktemp("home")
    aquatint.save(tiny_bundle(), home / "tiny")
    torch.save(new_layout(blocks=1), home / "sharp.pth")
    torch.save(new_layout(blocks=1, seed=5), home / "other.pth")
    peer = diffusers.AutoencoderTiny()
    randomise(peer)
    peer.save_pretrained(home / "taesd")
    return home


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("AQUATINT_THREADS", "1")
    monkeypatch.chdir(tmp_path)
    pixels = np.random.default_rng(0).integers(0, 256, (24, 40, 3), dtype=np.uint8)
    Image.fromarray(pixels).save("photo.png")


def paint(capfd: pytest.CaptureFixture[str], home: Path, *options: object) -> tuple[int, str, str]:
    return run(capfd, "generate", "a cat", "--model", home / "tiny", "--steps", 3, "--seed", 3, *options)


class TestGenerate:
    def test_hires_and_again(self, capfd: pytest.CaptureFixture[str], home: Path) -> None:
        second = ("--hires-scale", 1.5, "--hires-upscaler", home / "sharp.pth", "--hires-steps", 2)
        code, _, err = paint(capfd, home, *second, "--hires-prompt", "two cats", "--out", "large.png")
        assert code == 0, err
        with Image.open("large.png") as picture:
            assert picture.size == (96, 96)
            assert "Hires upscaler: sharp" in picture.info["parameters"]
        repeat = ("again", "large.png", "--model", home / "tiny", "--check")
        code, _, err = run(capfd, *repeat)
        assert code == 2
        assert "--upscaler FILE" in err
        code, _, err = run(capfd, *repeat, "--upscaler", home / "other.pth")
        assert code == 2
        (home / "renamed.pth").write_bytes((home / "sharp.pth").read_bytes())
        code, out, err = run(capfd, *repeat, "--upscaler", home / "renamed.pth", "--upscaler", home / "other.pth")
        assert code == 0, err
        assert "equal bit for bit" in out

    def test_variations_count_their_own_seed(self, capfd: pytest.CaptureFixture[str], home: Path) -> None:
        options = ("--variation-seed", 9, "--variation-strength", 0.2, "--count", 3, "--json")
        code, out, err = paint(capfd, home, *options)
        assert code == 0, err
        lines = [json.loads(line) for line in out.splitlines()]
        assert [line["seed"] for line in lines] == [3, 3, 3]
        assert [line["request"]["variation"]["seed"] for line in lines] == [9, 10, 11]
        assert len({line["pixels_sha256"] for line in lines}) == 3
        code, out, err = run(capfd, "again", lines[1]["path"], "--model", home / "tiny", "--check")
        assert code == 0, err

    def test_windows_tiles_edges_and_the_tiny_decoder(self, capfd: pytest.CaptureFixture[str], home: Path) -> None:
        wide = ("--size", "128x64", "--out", "wide.png", "--json")
        windows = ("--tiling", "64x64", "--tiling-overlap", 16, "--tiling-weights", "gaussian", "--tiled", 64)
        code, out, err = paint(capfd, home, *wide, *windows)
        assert code == 0, err
        assert json.loads(out)["request"]["tiling"] == {"width": 64, "height": 64, "overlap": 16, "weights": "gaussian"}
        assert json.loads(out)["request"]["decoding"] == {"tile": 64, "tiny": False}
        tiny = ("--seamless", "both", "--tiny", home / "taesd", "--tiny-decoder", "--out", "tile.png")
        code, _, err = paint(capfd, home, *tiny)
        assert code == 0, err
        repeat = ("again", "tile.png", "--model", home / "tiny", "--check")
        code, _, err = run(capfd, *repeat)
        assert code == 2
        assert "--tiny FILE" in err
        code, out, err = run(capfd, *repeat, "--tiny", home / "taesd")
        assert code == 0, err

    @pytest.mark.parametrize(
        ("options", "told"),
        [
            (("--variation-seed", 9), "--variation-strength"),
            (("--variation-strength", 2), "variation strength"),
            (("--hires-size", "big"), "--hires-size"),
            (("--hires-scale", 2, "--hires-size", "96x96"), "scale and a size"),
            (("--hires-scale", 2, "--hires-upscaler", "none.pth"), "none.pth"),
            (("--hires-upscaler", "lantent"), "lantent"),
            (("--tiling-overlap", 8), "without --tiling"),
            (("--tiling", "64x64", "--seamless", "x"), "tiling together with seamless"),
            (("--tiling", "64x64", "--tiling-weights", "odd"), "weights"),
            (("--seamless", "z"), "seamless"),
            (("--tiled", 63), "tile"),
            (("--tiny-decoder",), "no tiny autoencoder"),
            (("--tiny", "none"), "none"),
            (("--upscaler", "none.pth"), "none.pth"),
            (("--hires-scale", 2, "--image", "photo.png"), "hires together with edit"),
        ],
    )
    def test_mistakes(
        self, capfd: pytest.CaptureFixture[str], home: Path, options: tuple[object, ...], told: str
    ) -> None:
        code, _, err = paint(capfd, home, *options)
        assert code == 2
        assert told in err
        assert "Traceback" not in err
        assert not Path("pictures").exists()


class TestUpscale:
    def test_by_a_filter(self, capfd: pytest.CaptureFixture[str]) -> None:
        code, out, err = run(capfd, "upscale", "photo.png")
        assert code == 0, err
        assert out == "photo-80x48.png  80 x 48\n"
        with Image.open("photo.png") as photo, Image.open("photo-80x48.png") as large:
            assert large.tobytes() == photo.resize((80, 48), Image.Resampling.LANCZOS).tobytes()
            assert not metadata.find(large).marked
        code, _, _ = run(capfd, "upscale", "photo.png", "--size", "41x25", "--upscaler", "nearest", "--out", "n.webp")
        assert code == 0
        assert Image.open("n.webp").size == (41, 25)

    def test_by_a_file(self, capfd: pytest.CaptureFixture[str], home: Path) -> None:
        code, out, err = run(capfd, "upscale", "photo.png", "--upscaler", home / "sharp.pth", "--tile", 64)
        assert code == 0, err
        assert out.startswith("photo-160x96.png")
        large = images.decode(Path("photo-160x96.png").read_bytes())
        assert large.size == (160, 96)
        assert metadata.find(large).marked
        code, out, _ = run(
            capfd, "upscale", "photo.png", "--upscaler", home / "sharp.pth", "--scale", 3, "--out", "t.jpg"
        )
        assert code == 0
        assert Image.open("t.jpg").size == (120, 72)

    def test_what_a_net_makes_is_bounded_and_finite(self, capfd: pytest.CaptureFixture[str]) -> None:
        Image.new("RGB", (5000, 900)).save("wide.png")
        state = new_layout(blocks=1)
        torch.save(state, "sharp.pth")
        code, _, err = run(capfd, "upscale", "wide.png", "--upscaler", "sharp.pth", "--scale", 1.1)
        assert code == 2
        assert "20000 x 3600" in err
        torch.save({name: tensor * 1e30 for name, tensor in state.items()}, "loud.pth")
        code, _, err = run(capfd, "upscale", "photo.png", "--upscaler", "loud.pth")
        assert code == 2
        assert "not finite" in err

    @pytest.mark.parametrize(
        ("options", "told"),
        [
            (("none.png",), "none.png"),
            (("photo.png", "--upscaler", "lanczo"), "lanczos"),
            (("photo.png", "--upscaler", "none.pth"), "none.pth"),
            (("photo.png", "--scale", 99), "--scale"),
            (("photo.png", "--size", "99999x9"), "99999"),
            (("photo.png", "--tile", 1), "--tile"),
            (("photo.png", "--out", "x.gif"), "gif"),
        ],
    )
    def test_mistakes(self, capfd: pytest.CaptureFixture[str], options: tuple[object, ...], told: str) -> None:
        code, _, err = run(capfd, "upscale", *options)
        assert code == 2
        assert told in err
