"""Frozen dataclasses that configure a part: checked when they are made, `.build()` makes the part."""

import dataclasses
import inspect
import math
import types
import typing
from collections.abc import Callable, Collection
from typing import Annotated, Any, Literal, Union

from nanochat_pl.core.errors import UserError, nearest


@dataclasses.dataclass(frozen=True)
class AtLeast:
    """The least that a number may be, in its annotation: `Annotated[int | None, AtLeast(1)]`.

    Attributes:
        is_included: whether it may be `least` itself.
    """

    least: float
    is_included: bool = True

    def check(self, value: Any, hint: Any, where: str) -> None:
        """Raise `UserError` where the value is not within it, or not finite."""
        if not isinstance(value, int | float):
            return
        if not (self.least <= value if self.is_included else self.least < value) or value == math.inf:
            finite = " and finite" if value == math.inf else ""
            words = f"{'at least' if self.is_included else 'above'} {self.least:g}{finite}"
            raise UserError(f"{where} is {value}; it must be {words}{_or_else(hint)}.")


Positive = AtLeast(0, is_included=False)


@dataclasses.dataclass(frozen=True)
class Spec:
    """Base of all specs. Fields are checked against their annotations; an int is accepted for a float.

    Subclasses check ranges and combinations in `check()` and raise `UserError` with the nearest legal values.
    """

    def __post_init__(self) -> None:
        hints = typing.get_type_hints(type(self), include_extras=True)
        for field in dataclasses.fields(self):
            object.__setattr__(self, field.name, checked(getattr(self, field.name), hints[field.name], field.name))
        self.check()

    def check(self) -> None:
        """Raise `UserError` where values are out of range or contradict each other."""

    def as_dict(self) -> dict[str, Any]:
        """Plain containers, nested specs included, ready for JSON."""
        return dataclasses.asdict(self)


def call_checked(target: Callable[..., Any], values: dict[str, Any], where: str) -> Any:
    """`target(**values)`, every value checked against the annotations of `target`.

    Raises:
        UserError: an unknown, missing or wrong argument.
    """
    arguments = checked_arguments(target, values, where)
    try:
        return target(**arguments)
    except UserError as error:
        # A part that stands in several places names itself by its class: here its place is known.
        raise UserError(str(error).replace(f"{target.__name__}.", f"{where}.")) from error


def checked_arguments(
    target: Callable[..., Any], values: dict[str, Any], where: str, given: Collection[str] = ()
) -> dict[str, Any]:
    """`values` as the annotations of `target` want them.

    Args:
        where: the section's name as the user spells it.
        given: arguments that come from elsewhere.

    Raises:
        UserError: an unknown, missing or wrong argument.
    """
    parameters = {name: each for name, each in inspect.signature(target).parameters.items() if name not in given}
    for key in values:
        if key not in parameters:
            legal = ", ".join(parameters)
            raise UserError(f"There is no option {where}.{key}{nearest(key, list(parameters))} Legal: {legal}.")
    for key, parameter in parameters.items():
        if key not in values and parameter.default is parameter.empty:
            raise UserError(f"The option {where}.{key} is missing.")
    hints = typing.get_type_hints(target.__init__ if inspect.isclass(target) else target, include_extras=True)
    return {key: checked(value, hints.get(key, Any), f"{where}.{key}") for key, value in values.items()}


def checked(value: Any, hint: Any, where: str) -> Any:
    """`value` as the annotation `hint` wants it (a whole float becomes an int, a list a tuple).

    Raises:
        UserError: it is of another type; the message names the place and the legal values.
    """
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any:
        return value
    if origin is Annotated:
        value = checked(value, arguments[0], where)
        arguments[1].check(value, arguments[0], where)
        return value
    if origin in (Union, types.UnionType):
        return _checked_union(value, hint, where)
    if origin is Literal:
        if value not in arguments:
            raise UserError(f"{where} is {value!r}; legal values: {', '.join(map(repr, arguments))}.")
        return value
    if origin in (list, tuple):
        return _checked_sequence(value, hint, where)
    if isinstance(hint, type) and issubclass(hint, Spec) and isinstance(value, dict):
        return call_checked(hint, value, where)
    if origin is dict:
        if not isinstance(value, dict):
            raise _wrong_type(value, hint, where)
        return {checked(k, arguments[0], where): checked(v, arguments[1], f"{where}.{k}") for k, v in value.items()}
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if hint is int and isinstance(value, float) and value.is_integer():
        return int(value)
    if not isinstance(value, hint) or (hint is int and isinstance(value, bool)):
        raise _wrong_type(value, hint, where)
    return value


def _checked_union(value: Any, hint: Any, where: str) -> Any:
    options = typing.get_args(hint)
    if value is None and type(None) in options:
        return None
    options = tuple(option for option in options if option is not type(None))
    if len(options) == 1:
        return checked(value, options[0], where)
    for option in options:
        try:
            return checked(value, option, where)
        except UserError:
            continue
    raise _wrong_type(value, hint, where)


def _checked_sequence(value: Any, hint: Any, where: str) -> Any:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if not isinstance(value, list | tuple):
        raise _wrong_type(value, hint, where)
    if origin is list or arguments[1:] == (Ellipsis,):
        arguments = (arguments[0],) * len(value)
    elif len(value) != len(arguments):
        raise _wrong_type(value, hint, where)
    return origin(checked(item, kind, f"{where}[{i}]") for i, (item, kind) in enumerate(zip(value, arguments)))


def _or_else(hint: Any) -> str:
    """What may be given in place of a number: ", or null"."""
    others = [option for option in typing.get_args(hint) if option not in (int, float)]
    words = ["null" if option is type(None) else ", ".join(typing.get_args(option)) for option in others]
    return "".join(f", or {word}" for word in words)


def _wrong_type(value: Any, hint: Any, where: str) -> UserError:
    names = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}
    wanted = names.get(hint) or str(hint).replace("NoneType", "null")
    return UserError(f"{where} is {value!r}, but it must be {wanted}.")
