"""Frozen dataclasses that configure a part: checked when they are made, `.build()` makes the part."""

import dataclasses
import types
import typing
from typing import Any, Literal, Union

from nanochat_pl.core.errors import UserError


@dataclasses.dataclass(frozen=True)
class Spec:
    """Base of all specs. Fields are checked against their annotations; an int is accepted for a float.

    Subclasses check ranges and combinations in `check()` and raise `UserError` with the nearest legal values.
    """

    def __post_init__(self) -> None:
        hints = typing.get_type_hints(type(self))
        for field in dataclasses.fields(self):
            value = _coerce(getattr(self, field.name), hints[field.name], f"{type(self).__name__}.{field.name}")
            object.__setattr__(self, field.name, value)
        self.check()

    def check(self) -> None:
        """Raise `UserError` where values are out of range or contradict each other."""

    def as_dict(self) -> dict[str, Any]:
        """Plain containers, nested specs included, ready for JSON."""
        return dataclasses.asdict(self)


def _coerce(value: Any, hint: Any, where: str) -> Any:
    """`value` as the annotation wants it, or a `UserError` that names the place and the legal values."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any:
        return value
    if origin in (Union, types.UnionType):
        if value is None and type(None) in arguments:
            return None
        for option in arguments:
            if option is not type(None):
                try:
                    return _coerce(value, option, where)
                except UserError:
                    continue
        raise _wrong_type(value, hint, where)
    if origin is Literal:
        if value not in arguments:
            raise UserError(f"{where} is {value!r}; legal values: {', '.join(map(repr, arguments))}.")
        return value
    if origin in (list, tuple):
        if isinstance(value, str) or not isinstance(value, list | tuple):
            raise _wrong_type(value, hint, where)
        variadic = origin is list or (len(arguments) == 2 and arguments[1] is Ellipsis)
        if not variadic and len(value) != len(arguments):
            raise _wrong_type(value, hint, where)
        kinds = [arguments[0]] * len(value) if variadic else arguments
        return origin(_coerce(item, kind, f"{where}[{i}]") for i, (item, kind) in enumerate(zip(value, kinds)))
    if origin is dict:
        if not isinstance(value, dict):
            raise _wrong_type(value, hint, where)
        return {_coerce(k, arguments[0], where): _coerce(v, arguments[1], f"{where}.{k}") for k, v in value.items()}
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if hint is int and isinstance(value, float) and value.is_integer():
        return int(value)
    if not isinstance(value, hint) or (hint is int and isinstance(value, bool)):
        raise _wrong_type(value, hint, where)
    return value


def _wrong_type(value: Any, hint: Any, where: str) -> UserError:
    wanted = getattr(hint, "__name__", None) if typing.get_origin(hint) is None else str(hint).replace("NoneType", "None")
    return UserError(f"{where} is {value!r} ({type(value).__name__}), but it must be {wanted}.")
