"""What an encoder made of a picture or a text, kept for the next run: tensors by name, each checked as it is read.

Names begin with what is encoded (a picture's sha256 and its shape: loader.latents_key); the encoder's digest is the
cache's. Tensors lie in files of safetensors, whose heads hold each one's sha256; a file is written durably when enough
has come together. What is damaged counts as not there, and is made again.
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from aquatint.base import files
from aquatint.base.errors import UserError

FULL = 64 * 2**20  # bytes that make a file


class Cache:
    """Tensors of one encoder.

    folder   where caches lie; each encoder has a folder of its own in it
    encoder  the digest of its weights and of whatever else decides what it makes, as a name for files
    tell     is told of what is damaged
    """

    def __init__(self, folder: str | Path, encoder: str, tell: Callable[[str], None] | None = None) -> None:
        if not encoder.isalnum() or len(encoder) > 128:
            raise UserError(f'encoder "{encoder[:80]}".', "A digest: letters and numbers.")
        self.folder, self.tell = Path(folder) / encoder, tell or (lambda _: None)
        files.make_folder(self.folder)
        self._where: dict[str, Path] = {}
        self._new: dict[str, Tensor] = {}
        self._size = 0  # bytes of what is new
        for path in sorted(self.folder.glob("*.safetensors")):
            try:
                with safe_open(path, "pt") as file:
                    self._where |= dict.fromkeys(file.keys(), path)
            except (SafetensorError, OSError) as error:
                self.tell(f'"{path}" is left alone: {str(error)[:100]}')

    def __len__(self) -> int:
        return len(self._where.keys() | self._new.keys())

    def get(self, name: str) -> Tensor | None:
        """The tensor of a name, or None if it is not there or not what was written."""
        if name in self._new:
            return self._new[name]
        path = self._where.get(name)
        if path is None:
            return None
        try:
            with safe_open(path, "pt") as file:
                tensor, promised = file.get_tensor(name), (file.metadata() or {}).get(name)
            if _digest(name, tensor) == promised:
                return tensor
            why = "its sha256 is another"
        except (SafetensorError, OSError) as error:
            why = str(error)[:100]
        self.tell(f'"{name}" in "{path}" is damaged ({why}); it is made again')
        del self._where[name]
        return None

    def put(self, name: str, tensor: Tensor) -> None:
        """Keep a tensor; it is on disk after `flush`, or when enough has come together."""
        self._new[name] = tensor.detach().cpu().contiguous()
        self._size += tensor.numel() * tensor.element_size()
        if self._size >= FULL:
            self.flush()

    def flush(self) -> None:
        """Write what is new."""
        if self._new:
            sums = {name: _digest(name, tensor) for name, tensor in self._new.items()}
            names = hashlib.sha256("\n".join(sorted(f"{name} {sums[name]}" for name in sums)).encode()).hexdigest()
            path = self.folder / f"{names[:32]}.safetensors"
            files.write(path, save(self._new, sums))
            self._where |= dict.fromkeys(self._new, path)
            self._new, self._size = {}, 0

    def remembered(self, names: Sequence[str], make: Callable[[list[int]], Sequence[Tensor]]) -> list[Tensor]:
        """The tensors of these names; `make` is given the places of those that are not there, and makes them."""
        found: dict[int, Tensor] = {place: t for place, name in enumerate(names) if (t := self.get(name)) is not None}
        if missing := [place for place in range(len(names)) if place not in found]:
            made: Mapping[int, Tensor] = dict(zip(missing, make(missing), strict=True))
            for place, tensor in made.items():
                self.put(names[place], tensor)
                found[place] = self._new.get(names[place], tensor.detach().cpu())
        return [found[place] for place in range(len(names))]


def _digest(name: str, tensor: Tensor) -> str:
    """Of a tensor under its name: its kind, shape and bytes."""
    digest = hashlib.sha256(f"{name} {tensor.dtype} {tuple(tensor.shape)} ".encode())
    digest.update(tensor.contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()
