"""The bundle: words, pictures and latents, and what it says about words it does not know."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tests.fixtures import tiny_bundle

from aquatint.base.errors import UserError
from aquatint.base.files import Taken
from aquatint.pipelines import metadata
from aquatint.pipelines.bundle import Bundle
from aquatint.pipelines.preview import fit
from aquatint.pipelines.vocabulary import Vocabulary

VOCABULARY = Vocabulary(
    "pocket", {"subjects": ("cat", "apple"), "backgrounds": ("in the snow",)}, ("a", "on", "cats", "apples", "red")
)


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    return tiny_bundle(vocabulary=VOCABULARY)


def test_text(bundle: Bundle) -> None:
    told = bundle.encode_text(["", "a red apple"])
    assert told.context.shape == (2, 77, 32)
    assert told.context.dtype == torch.float32
    assert told.vector is None
    assert not torch.equal(told.context[0], told.context[1])


def test_pictures_and_latents(bundle: Bundle) -> None:
    picture = Image.new("RGB", (32, 16), "red")
    latents = bundle.encode([picture, picture])
    assert latents.shape == (2, 4, 2, 4)
    images = bundle.decode(latents)
    assert [image.size for image in images] == [(32, 16)] * 2
    assert images[0].tobytes() == bundle.decode(latents[:1])[0].tobytes()


def test_paint_and_save(bundle: Bundle, tmp_path: Path) -> None:
    picture = bundle.paint("a red apple", seed=7, steps=2)
    assert picture.seed == 7
    assert picture.request.prompt == "a red apple"
    assert picture._repr_png_() == picture.encode("png")
    for name in ("a.png", "a.jpg", "a.webp"):
        assert picture.save(tmp_path / name) == tmp_path / name
    with pytest.raises(Taken):
        picture.save(tmp_path / "a.png", replace=False)
    with pytest.raises(UserError, match=r"\.png"):
        picture.save(tmp_path / "a")
    with Image.open(tmp_path / "a.png") as image:
        assert metadata.find(image).infotext == picture.metadata()["parameters"]


def test_paint_takes_the_fields_of_a_request(bundle: Bundle) -> None:
    with pytest.raises(UserError, match="generate"):
        bundle.paint("a red apple", seeds=(1, 2))
    with pytest.raises(TypeError, match="colour"):
        bundle.paint("a red apple", colour="red")


def test_preview_is_the_best_linear_guess(bundle: Bundle) -> None:
    preview = bundle.preview(torch.zeros(1, 4, 8, 12))
    assert preview.size == (12, 8)
    assert bundle._preview is bundle._preview


def test_preview_of_an_autoencoder_that_is_linear() -> None:
    class Linear(torch.nn.Module):
        """Latents that are a mixture of the mean colours of 8 x 8 pixels: what the fit must find exactly."""

        config = tiny_bundle().autoencoder.config
        mixture = torch.tensor([[1.0, 0.2, 0.0], [0.0, -1.0, 0.3], [0.5, 0.0, 2.0], [0.1, 0.1, 0.1]])

        def encode(self, pictures: torch.Tensor) -> torch.Tensor:
            small = torch.nn.functional.avg_pool2d(pictures, 8)
            return torch.einsum("lc,bchw->blhw", self.mixture, small) + 0.25

    preview = fit.__wrapped__(Linear(), torch.device("cpu"))  # type: ignore[attr-defined]
    colours = torch.tensor([[-1.0, 0.0, 1.0], [0.6, 0.6, -0.2]]).T[None, :, None, :]
    latents = torch.einsum("lc,bchw->blhw", Linear.mixture, colours) + 0.25
    assert np.asarray(preview(latents)).tolist() == [[[0, 128, 255], [204, 204, 102]]]


def test_words_that_it_has_not_learned(bundle: Bundle) -> None:
    assert bundle.note("a red Apple in the snow") is None
    note = bundle.note("a red appel on a castle, a castle")
    assert note is not None
    assert "The pocket model has not learned: appel (it knows apple), castle." in note
    assert tiny_bundle().note("a castle") is None
    many = bundle.note(" ".join(chr(97 + i) * 9 for i in range(20)))
    assert many is not None
    assert "and 12 more" in many


def test_words_beyond_the_last_token(bundle: Bundle) -> None:
    text = "a red apple on " * 20 + "cats"
    assert bundle.note(text) is None  # a1111 makes chunks
    note = bundle.note(text, "plain")
    assert note is not None
    assert note.endswith('cats" too long for 77 tokens; not read.')


def test_vocabulary_round_trip() -> None:
    assert Vocabulary.from_json(VOCABULARY.to_json()) == VOCABULARY
    with pytest.raises(UserError, match="groups"):
        Vocabulary.from_json('{"model": "x", "group": {}}')
