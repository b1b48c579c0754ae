"""The annotations of the package, shapes included, executed while tests run.

jaxtyping's import hook puts its `jaxtyped` on every function, which binds each call's arguments and checks them twice:
a sampler's step takes three times as long by it, and an opcode of a pickle thirty times. What stands here in its place
checks the same annotations once, by beartype, and remembers sizes (that an `h` is one number) only where there are
shapes.
"""

import dataclasses
import functools
import inspect
import types
import typing
from collections.abc import Callable
from typing import Any

import jaxtyping
from beartype import BeartypeConf, beartype

_JAXTYPED = jaxtyping.jaxtyped
CONF = BeartypeConf(is_pep484_tower=True)  # an int is a float to beartype too, as it is to mypy


def install() -> None:
    """From now on, what is imported from the package checks its calls."""
    jaxtyping.jaxtyped = checked  # the hook's decorators look for it by this name
    jaxtyping.install_import_hook("aquatint", "tests.annotations.beartype")


def checked(thing: Any = None, *, typechecker: Any = None) -> Any:
    """A function whose calls are checked; a class, of which a dataclass checks what it is made of."""
    if thing is None:
        return checked
    if inspect.isclass(thing):
        made = vars(thing).get("__init__")
        if dataclasses.is_dataclass(thing) and made is not None and not hasattr(made, "__wrapped__"):
            thing.__init__ = _function(made)  # type: ignore[misc]
        return thing
    return _function(thing)


def _function(fn: Callable[..., Any]) -> Callable[..., Any]:
    if any("constexpr" in str(hint) for hint in fn.__annotations__.values()):  # a kernel, whose source Triton compiles
        return fn
    if inspect.isgeneratorfunction(fn):  # which beartype would not check before the first item is asked for
        return _JAXTYPED(fn, typechecker=functools.partial(beartype, conf=CONF))
    hints = {name: _resolved(hint, fn.__globals__) for name, hint in fn.__annotations__.items()}
    twin = types.FunctionType(fn.__code__, fn.__globals__, fn.__name__, fn.__defaults__, fn.__closure__)
    twin.__kwdefaults__, twin.__qualname__, twin.__module__ = fn.__kwdefaults__, fn.__qualname__, fn.__module__
    twin.__annotations__ = hints
    inner = beartype(twin, conf=CONF)
    if not any(map(_has_shape, hints.values())):
        return functools.wraps(fn)(inner) if inner is not twin else fn

    @functools.wraps(fn)
    def sized(*args: Any, **kwargs: Any) -> Any:
        with _CONTEXT:
            return inner(*args, **kwargs)

    return sized


def _resolved(hint: Any, names: dict[str, Any]) -> Any:
    """The hint without texts in it; Any where they name what is imported for mypy only."""

    def holder() -> None: ...

    holder.__annotations__ = {"value": hint}
    try:
        return typing.get_type_hints(holder, names, include_extras=True)["value"]
    except Exception:
        return Any


def _has_shape(hint: Any) -> bool:
    if inspect.isclass(hint) and not isinstance(hint, types.GenericAlias):
        return issubclass(hint, jaxtyping.AbstractArray)
    inner = hint if isinstance(hint, list) else typing.get_args(hint)
    return any(map(_has_shape, inner))


_CONTEXT = jaxtyping.jaxtyped("context")
