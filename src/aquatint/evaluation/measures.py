"""From painted pictures to figures: all that an evaluation measures."""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice

import numpy as np
import torch
from jaxtyping import UInt8
from PIL import Image, ImageOps
from torch import Tensor

from aquatint import __version__
from aquatint.base.errors import UserError
from aquatint.evaluation import spaces
from aquatint.evaluation.detector import Detector
from aquatint.evaluation.intervals import (
    Estimate,
    median,
    of_frechet,
    of_kernel,
    of_mean,
    of_share,
    of_statistic,
)
from aquatint.evaluation.metrics import clip_scores, nearest, psnr, r_precision, ssim, wilson
from aquatint.evaluation.painted import Painted
from aquatint.evaluation.prompts import FACTS
from aquatint.evaluation.results import VERSION, Figure, Looked, Results, figure
from aquatint.evaluation.runs import Table, controls, counted, crossed, verdicts
from aquatint.evaluation.sets import Asked, Gallery
from aquatint.evaluation.spaces import Space
from aquatint.pipelines.bundle import Bundle
from aquatint.weights.clip import Clip

GROUP = 64  # pictures in memory at once
Tell = Callable[[str], None]


@dataclass(frozen=True)
class Eyes:
    """What looks at pictures: spaces for distances, and by name the nets that tell more than features."""

    spaces: tuple[Space, ...]
    detector: Detector | None = None
    clip: Clip | None = None


@dataclass
class Finding:
    """What is found, bit by bit: figures, values of each picture, features, notes."""

    figures: list[Figure] = field(default_factory=list)
    values: dict[str, tuple[float, ...]] = field(default_factory=dict)
    features: dict[str, Tensor] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    scores: Table | None = None
    wrong: tuple[str, ...] = ()

    def add(self, name: str, found: Estimate, n: int) -> None:
        """One figure more."""
        self.figures.append(figure(name, found, n))

    def add_values(self, name: str, values: Tensor) -> None:
        """A figure that is the mean of one value a picture."""
        self.values[name] = tuple(values.double().tolist())
        self.add(name, of_mean(values), len(values))


def check(asked: Asked, eyes: Eyes, training: Gallery | None) -> None:
    """What can be known to be in vain before anything is painted: a UserError."""
    if training is None:
        return
    if asked.references is None:
        raise UserError(
            "Training pictures, and no true ones that are not among them to compare with.",
            "Both.",
            "--reference FOLDER.",
        )
    space = spaces.thumbs()
    found = nearest(space.features(asked.references), space.features(training)).distance
    if same := int((found == 0).sum()):
        raise UserError(
            f"{same} of the {len(asked.references)} references are training pictures.",
            "True pictures that the model was not trained with.",
            "Name others with --reference.",
        )


def measure(
    painted: Painted,
    eyes: Eyes,
    bundle: Bundle,
    *,
    training: Gallery | None = None,
    reconstruct: int = 64,
    tell: Tell = lambda what: None,
) -> tuple[Results, dict[str, Tensor]]:
    """All figures of a run whose pictures are there, and the features for comparisons.

    training      pictures to look for copies in
    reconstruct   how many of the references go through the autoencoder
    tell          is told what is being done
    """
    began, finding, asked = time.perf_counter(), Finding(), painted.asked
    if eyes.detector is not None and asked.scenes:
        tell("what the pictures show")
        _prompts(finding, painted, eyes.detector)
    for space in eyes.spaces:
        tell(f"features: {space.name}")
        finding.features[f"painted/{space.name}"] = space.features(painted)
        if asked.references is not None:
            finding.features[f"references/{space.name}"] = space.features(asked.references)
    if eyes.clip is not None:
        tell("captions")
        _captions(finding, asked, eyes.clip)
    if asked.references is None:
        finding.notes.append("No references: no distances, and nothing for the autoencoder to reconstruct.")
    else:
        tell("distances")
        _distances(finding, asked, eyes.spaces)
        tell("the autoencoder")
        _autoencoder(finding, painted, eyes, bundle, reconstruct)
    if training is not None:
        tell("the nearest training pictures")
        _copies(finding, painted, eyes.spaces, training)
    seconds = {"painting": painted.seconds, "measuring": round(time.perf_counter() - began, 3)}
    results = Results(
        VERSION,
        __version__,
        painted.settings,
        tuple(Looked(space.name, space.digest) for space in eyes.spaces),
        None if asked.references is None else asked.references.facts,
        None if training is None else training.facts,
        tuple(finding.figures),
        finding.values,
        finding.scores,
        tuple(finding.notes),
        seconds,
        asked.prompts,
        asked.categories,
        finding.wrong,
    )
    return results, finding.features


def _prompts(finding: Finding, painted: Painted, detector: Detector) -> None:
    """How many pictures show what their prompt says, by category and by fact; the controls beside them."""
    scenes, judged, wrong = painted.asked.scenes, [], []
    against = crossed(scenes)
    for rows, pixels in arrays(painted):
        judged += verdicts(pixels, detector, [scenes[row] for row in rows])
        wrong += verdicts(pixels, detector, [against[row] for row in rows])
    own = counted(judged, scenes, "painted")
    whole = own.total().rows[0]
    finding.add("right", of_share(whole.share("all")), len(scenes))
    finding.values["right"] = tuple(float(verdict["all"]) for verdict in judged)
    finding.wrong = tuple(", ".join(fact for fact in FACTS if not verdict.get(fact, True)) for verdict in judged)
    for row in own.rows:
        finding.add(f"right/{row.category}", of_share(row.share("all")), row.scores["all"][1])
    for fact in (fact for fact in FACTS if fact in whole.scores):
        finding.add(f"fact/{fact}", of_share(whole.share(fact)), whole.scores[fact][1])
    finding.scores = own + counted(wrong, against, "painted, wrong caption") + controls(detector, scenes)


def _captions(finding: Finding, asked: Asked, clip: Clip) -> None:
    """CLIP score and R-precision, and the scores of wrong captions and of the references."""
    texts, seen = spaces.clip_texts(clip, asked.prompts), finding.features["painted/clip"]
    finding.add_values("clip_score", clip_scores(texts, seen))
    wrong = [index for index, prompt in enumerate(asked.prompts) if prompt != asked.prompts[index - 1]]
    if wrong:  # the prompt before, where that says something else
        scores = clip_scores(texts.roll(1, 0)[wrong], seen[wrong])
        finding.add("clip_score_wrong", of_mean(scores), len(wrong))
    shown = asked.references
    if shown is not None and shown.captions:
        scores = clip_scores(spaces.clip_texts(clip, shown.captions), finding.features["references/clip"])
        finding.add("clip_score_references", of_mean(scores), len(scores))
    if len(set(asked.prompts)) > 1:
        ranked = r_precision(texts, seen, asked.prompts)
        finding.values["r_precision"] = tuple(ranked.first.double().tolist())
        finding.add("r_precision", of_share(wilson(int(ranked.first.sum()), len(seen))), len(seen))
        finding.notes.append(f"R-precision among {ranked.candidates} prompts: chance is 1 / {ranked.candidates}.")


def _distances(finding: Finding, asked: Asked, every: Sequence[Space]) -> None:
    """Fréchet and kernel distance in every space, and those of the prompts' own renders, if there are any."""
    for space in every:
        ours, true = (finding.features[f"{which}/{space.name}"] for which in ("painted", "references"))
        if min(len(ours), len(true)) < 2:
            finding.notes.append(f"No distances in the space {space.name}: they take two pictures and two references.")
            continue
        frechet, kernel = space.distances
        perfect = None if asked.truths is None else space.features(asked.truths)
        for name, of in ((frechet, of_frechet), (kernel, of_kernel)):
            finding.add(name, of(ours, true), len(ours))
            if perfect is not None:
                finding.add(f"{name}_floor", of(perfect, true), len(perfect))


def _autoencoder(finding: Finding, painted: Painted, eyes: Eyes, bundle: Bundle, count: int) -> None:
    """PSNR, SSIM and Fréchet distance of true pictures and their reconstructions, at the size of the painted ones."""
    truths, request = painted.asked.truths, painted.settings.request
    given = truths or painted.asked.references
    assert given is not None, "what is reconstructed"
    if count < 1:
        finding.notes.append("No reconstructions, as was wished.")
        return
    size = (request.width or 8, request.height or 8)
    which = given.spread(count)
    fitted = [ImageOps.fit(given[index], size, Image.Resampling.BICUBIC) for index in which]
    again = [bundle.decode(bundle.encode(one))[0] for one in fitted]
    pairs = [(np.array(a)[None], np.array(b)[None]) for a, b in zip(fitted, again, strict=True)]
    for name, of in (("psnr", psnr), ("ssim", ssim)):
        each = torch.cat([of(a, b) for a, b in pairs])
        finding.add(name, of_mean(each), len(pairs))
        finding.values[f"{name}/true"] = tuple(each.clamp(max=100.0).tolist())  # an exact one has no finite PSNR
    for space in eyes.spaces:
        if len(which) > 1:
            found = of_frechet(space.features(again), space.features(fitted), paired=True)
            finding.add(f"r{space.distances[0]}", found, len(which))
    if eyes.detector is not None and finding.scores is not None and truths is not None:
        scenes = [painted.asked.scenes[index] for index in which]
        judged = verdicts(np.concatenate([b for _, b in pairs]), eyes.detector, scenes)
        finding.scores += counted(judged, scenes, "reconstructions")


def _copies(finding: Finding, painted: Painted, every: Sequence[Space], training: Gallery) -> None:
    """How near pictures are to their nearest training picture, against true pictures that were not trained with.

    A picture counts as near if it is nearer than the nearest of the m true ones. If the model copies nothing, its
    pictures and the true ones are alike in this, and the nearest of m + 1 is each of them equally often: the share is
    1 / (m + 1). That is all that the threshold assumes.
    """
    references = painted.asked.references
    assert references is not None, "check asks for them"
    every = [spaces.thumbs(), *(one for one in every if one.name != "pixels")]
    looked: dict[str, list[Tensor]] = {space.name: [] for space in every}
    source = iter(training)
    while some := [*islice(source, GROUP)]:  # drawn or read once for all spaces
        for space in every:
            looked[space.name].append(space.features(some))
    for space in every:
        taught = torch.cat(looked[space.name])
        ours, true = (finding.features.get(f"{name}/{space.name}") for name in ("painted", "references"))
        near = nearest(space.features(painted) if ours is None else ours, taught).distance
        fresh = nearest(space.features(references) if true is None else true, taught).distance
        limit = float(fresh.min())
        finding.values[f"nearest_{space.name}"] = tuple(near.double().tolist())
        finding.values[f"nearest_{space.name}/true"] = tuple(fresh.double().tolist())
        finding.add(f"nearest_{space.name}", of_statistic(median, (near, fresh)), len(near))
        hits = int((near < limit).sum())
        finding.add(f"copies_{space.name}", of_share(wilson(hits, len(near))), len(near))
    finding.notes.append(
        f"Copies were looked for among {len(training):,} training pictures; without any, the share nearer than all "
        f"{len(references):,} true ones is {100 / (len(references) + 1):.2g} % in the mean."
    )


def arrays(painted: Painted) -> Iterator[tuple[range, UInt8[np.ndarray, "n h w 3"]]]:
    """The painted pictures as pixels, GROUP at a time, with their numbers."""
    for start in range(0, len(painted), GROUP):
        rows = range(start, min(start + GROUP, len(painted)))
        yield rows, np.stack([np.array(painted[row]) for row in rows])
