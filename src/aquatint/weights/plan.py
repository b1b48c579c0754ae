"""What is at a path and where each of its tensors would go, found out without reading weights."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from aquatint.base import config
from aquatint.base.errors import UserError, unknown
from aquatint.diffusion.prediction import PREDICTIONS
from aquatint.families import Family
from aquatint.weights import compvis, description
from aquatint.weights.formats import Format, look, recognise
from aquatint.weights.header import FLOATS
from aquatint.weights.keymap import WORDS, Pair, Shape, config_of, parts_of, shapes
from aquatint.weights.store import Held

EMA = ("ignore", "prefer")


@dataclass(frozen=True)
class Misfit:
    """A tensor that is there but is not what the family needs; `why` gives both shapes, or its number format."""

    name: str
    why: str


@dataclass(frozen=True)
class PartPlan:
    """One of the nets: how many tensors it needs, and what was found of them (their names, theirs)."""

    name: str
    needed: int
    found: int
    parameters: int
    size: int
    dtypes: dict[str, int]
    missing: tuple[str, ...]
    misfits: tuple[Misfit, ...]


@dataclass(frozen=True)
class Plan:
    """What `inspect` shows. `left_over` groups by reason the tensors that no net takes; `unexplained` have none."""

    source: str
    format: str
    family: Family
    parts: tuple[PartPlan, ...]
    left_over: dict[str, tuple[str, ...]]
    unexplained: tuple[str, ...]
    files: dict[str, int]
    metadata: dict[str, str]
    notes: tuple[str, ...]

    @property
    def complete(self) -> bool:
        """Whether every tensor has its place and every place its tensor."""
        return not self.unexplained and not any(part.missing or part.misfits for part in self.parts)

    def data(self) -> dict[str, Any]:
        """The plan as plain JSON data."""
        rows = {field: getattr(self, field) for field in ("source", "format", "complete", "left_over", "unexplained")}
        rows |= {field: getattr(self, field) for field in ("files", "metadata", "notes", "family")}
        data: dict[str, Any] = config.to_data({**rows, "parts": {part.name: part for part in self.parts}})
        return data

    def __str__(self) -> str:
        size = sum(self.files.values())
        lines = [
            f"{self.source}: {self.format} / {self.family.name}, {_bytes(size)} in {_count(len(self.files), 'file')}"
        ]
        for part in self.parts:
            kinds = ", ".join(sorted(part.dtypes))
            lines.append(
                f"  {part.name:<12} {part.found:>5} of {part.needed} tensors, {part.parameters / 1e6:,.1f} M numbers, "
                f"{_bytes(part.size)}{f' as {kinds}' if kinds else ''}"
            )
            lines += [f"      nothing for {_some(part.missing)}"] if part.missing else []
            lines += [f"      {misfit.name}: {misfit.why}" for misfit in part.misfits[:5]]
        family = self.family
        lines.append(
            f"  predicts     {family.prediction}; schedule {family.schedule.kind}"
            f"{', ends in pure noise' if family.schedule.zero_terminal else ''}; text width {family.unet.context}; "
            f"latents {family.unet.channels_out} of {family.unet.channels_in} channels in; "
            f"{family.defaults.width}x{family.defaults.height}"
        )
        for reason, names in self.left_over.items():
            lines.append(f"  left over    {len(names):>5}: {reason}")
        lines += [f"  no place for {len(self.unexplained):>5}: {_some(self.unexplained)}"] if self.unexplained else []
        lines += [f"  note         {note}" for note in self.notes]
        for key, text in self.metadata.items():
            short = text.replace("\n", " ")
            lines.append(f"  says         {key}: {short if len(short) <= 80 else short[:77] + '...'}")
        return "\n".join(lines)


@dataclass(frozen=True)
class Found:
    """A plan, and what is needed to carry it out."""

    plan: Plan
    held: Held
    format: Format
    pairs: Mapping[str, Sequence[Pair]]

    @property
    def averaged(self) -> bool:
        """Whether the U-Net's weights are the averaged ones."""
        return self.pairs["unet"][0].theirs.startswith(compvis.EMA)


def find(
    path: Path, *, source: str, ema: str = "ignore", variant: str | None = None, prediction: str | None = None
) -> Found:
    """The plan for a path; a UserError where there is nothing that could be a model."""
    if ema not in EMA:
        raise unknown("choice of averaged weights (ema)", ema, EMA)
    if prediction is not None and prediction not in PREDICTIONS:
        raise unknown("prediction", prediction, PREDICTIONS)
    held = look(path, variant)
    format = recognise(held)
    try:
        family, notes = format.family(held, prediction)
    except UserError as error:
        raise UserError(f'"{path}": {error.got}', error.takes, error.remedy) from None
    if prediction is not None and prediction != family.prediction:
        notes = [*notes, f"it says that it predicts {family.prediction}, and you say {prediction}"]
        family = description.known(replace(family, prediction=prediction))
    pairs = {part: format.pairs(family, part, held, ema=False) for part in parts_of(family)}
    if variant is not None and format.name != "diffusers":
        notes = [*notes, f"only diffusers folders have variants; {variant} was not looked for"]
    if ema == "prefer":
        pairs["unet"], note = _averaged(format, family, held, pairs["unet"])
        notes = [*notes, note]
    return Found(_plan(source, held, format, family, pairs, [*held.notes, *notes]), held, format, pairs)


def demand(found: Found) -> Found:
    """The same, if the plan is complete; else a UserError that names what has no place and what is missing."""
    plan = found.plan
    if plan.complete:
        return found
    missing = [name for part in plan.parts for name in part.missing]
    misfits = [f"{misfit.name} {misfit.why}" for part in plan.parts for misfit in part.misfits]
    lines = [f'"{plan.source}" reads as {plan.format} / {plan.family.name}, but not every tensor found its place.']
    for words, names in (
        ("no place for", plan.unexplained),
        ("nothing for", missing),
        ("unfit", misfits),
    ):
        lines += [f"  {words} {len(names)}: {_some(names)}"] if names else []
    absent = [WORDS[part.name] for part in plan.parts if not part.found]
    lines += [f"  there is no {' and no '.join(absent)}"] if absent else []
    raise UserError("\n".join(lines), "", f'\n`aquatint inspect "{plan.source}"` shows the whole plan.')


def _averaged(format: Format, family: Family, held: Held, plain: list[Pair]) -> tuple[list[Pair], str]:
    """The U-Net's pairs with the averaged weights, if they are there."""
    averaged = format.pairs(family, "unet", held, ema=True)
    there = sum(pair.theirs in held.where for pair in averaged)
    if averaged == plain or not there:
        return plain, "it has no averaged weights (EMA); its ordinary ones are taken"
    return averaged, "the averaged weights (EMA) are taken"


def _plan(
    source: str, held: Held, format: Format, family: Family, pairs: Mapping[str, Sequence[Pair]], notes: list[str]
) -> Plan:
    parts = tuple(_part(part, held, pairs[part], shapes(config_of(family, part))) for part in parts_of(family))
    taken = {pair.theirs for rows in pairs.values() for pair in rows}
    averaged = pairs["unet"][0].theirs.startswith(compvis.EMA)
    left_over: dict[str, list[str]] = {}
    for name in held.where:
        if name not in taken:
            reason = format.leftover(name, family)
            if not reason and averaged and name.startswith(compvis.UNET):
                reason = "ordinary weights, whose average was taken"
            left_over.setdefault(reason, []).append(name)
    unexplained = tuple(left_over.pop("", ()))
    metadata = {key: text for key, text in sorted(held.metadata.items()) if key not in (description.KEY, "format")}
    return Plan(
        source=source,
        format=format.name,
        family=family,
        parts=parts,
        left_over={reason: tuple(names) for reason, names in left_over.items()},
        unexplained=unexplained,
        files={_beneath(held.path, file.path): file.size for file in held.files},
        metadata=metadata,
        notes=tuple(notes),
    )


def _part(part: str, held: Held, pairs: Sequence[Pair], ours: Mapping[str, Shape]) -> PartPlan:
    missing, misfits = [], []
    dtypes: Counter[str] = Counter()
    size = parameters = 0
    for pair in pairs:
        if pair.theirs not in held.where:
            missing.append(pair.theirs)
            continue
        entry = held.entry(pair.theirs)
        allowed = pair.turn.shapes([ours[name] for name in pair.ours])
        if entry.shape not in allowed:
            misfits.append(
                Misfit(pair.theirs, f"has the shape {_shape(entry.shape)}, and {_shape(allowed[0])} is needed")
            )
        elif entry.dtype not in FLOATS:
            misfits.append(Misfit(pair.theirs, f"is stored as {entry.dtype}, and weights are {', '.join(FLOATS)}"))
        dtypes[entry.dtype] += 1
        size += entry.size
        parameters += _product(entry.shape)
    found = len(pairs) - len(missing)
    return PartPlan(part, len(pairs), found, parameters, size, dict(dtypes), tuple(missing), tuple(misfits))


def _beneath(root: Path, path: Path) -> str:
    """A file's name for the reader: its place in the folder, where it lies there (the hub's cache links elsewhere)."""
    return str(path.relative_to(root)) if path.is_relative_to(root) and path != root else path.name


def _shape(shape: Shape) -> str:
    return "[" + ", ".join(map(str, shape)) + "]"


def _product(shape: Shape) -> int:
    count = 1
    for side in shape:
        count *= side
    return count


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:5]) + (f", and {len(names) - 5} more" if len(names) > 5 else "")


def _count(number: int, thing: str) -> str:
    return f"{number} {thing}{'' if number == 1 else 's'}"


def _bytes(size: int) -> str:
    for unit, scale in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if size >= scale:
            return f"{size / scale:.1f} {unit}"
    return f"{size} bytes"
