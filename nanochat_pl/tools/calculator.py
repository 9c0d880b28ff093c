"""A calculator for models: arithmetic and letter counts, parsed by `ast` and walked by hand; nothing is evaluated.

Numbers are exact fractions, so that 0.1+0.2 is 0.3 and 100.1-100 is 0.1, as a person would write them.
"""

import ast
import operator
import re
from collections.abc import Callable
from decimal import Context, Decimal
from fractions import Fraction

# Together these bounds keep every call within about a millisecond.
MAX_EXPRESSION_CHARACTERS = 256
MAX_RESULT_CHARACTERS = 64
MAX_DEPTH = 128
MAX_BITS = 512
"""Of the numerator and of the denominator of every number on the way: whole numbers to about 10^154."""
SIGNIFICANT_DIGITS = 12
"""Of a result that is no whole number and not exact in fewer."""

# What an expression may consist of; its grammar is left to `ast`. Backslashes are not in it: no escapes, no warnings.
_LEXEME = re.compile(
    r"""(?P<number>(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?:\.\d*)?(?:[eE][+-]?\d+)?|\.\d+(?:[eE][+-]?\d+)?)
    |'[^'\\]*'|"[^"\\]*"|\blen\b|\.count\b|[-+*/%()]|[ \t]+""",
    re.VERBOSE | re.ASCII,
)

_BINARY: dict[type[ast.operator], Callable[[Fraction, Fraction], Fraction]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: lambda a, b: Fraction(a // b),
    ast.Mod: operator.mod,
}

# Digits enough for the longest whole part and the decimals behind it.
_QUOTIENTS = Context(prec=400)


class _Refused(Exception):
    """The expression is outside of the calculator's grammar or bounds."""


def evaluate(expression: str) -> str | None:
    """The value of `expression` as a tool's output shows it, or None for everything that is refused.

    Legal are decimal numbers (with commas between thousands), + - * / // % **, signs, parentheses, `"text".count("t")`
    and `len("text")`. Whole numbers come without a point; others exactly, where twelve significant digits (and at least
    two decimals) suffice, else rounded to them; never with an exponent. A power with a fraction as its exponent is
    computed in floating point.

    Refused, without an error: what does not parse, other Python, text as the result, a division by zero, complex
    numbers, and expressions, numbers or results beyond the bounds above.
    """
    try:
        tree = ast.parse(_without_thousands_commas(expression.strip()), mode="eval")
        value = _value(tree.body, MAX_DEPTH)
    except (_Refused, SyntaxError, ValueError, ArithmeticError, RecursionError, MemoryError):
        return None
    if isinstance(value, str):
        return None
    text = _text(value)
    return text if len(text) <= MAX_RESULT_CHARACTERS else None


def _without_thousands_commas(expression: str) -> str:
    if len(expression) > MAX_EXPRESSION_CHARACTERS:
        raise _Refused
    parts = []
    position = 0
    while position < len(expression):
        lexeme = _LEXEME.match(expression, position)
        if lexeme is None:
            raise _Refused
        parts.append(lexeme[0].replace(",", "") if lexeme["number"] else lexeme[0])
        position = lexeme.end()
    return "".join(parts)


def _value(node: ast.expr, depth: int) -> Fraction | str:
    if depth == 0:
        raise _Refused
    match node:
        case ast.Constant(value=str() as text):
            return text
        case ast.Constant(value=int() | float() as number):
            return _bounded(Fraction(repr(number)))
        case ast.UnaryOp(op=ast.UAdd(), operand=operand):
            return _number(operand, depth)
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            return -_number(operand, depth)
        case ast.BinOp(left=left, op=ast.Pow(), right=right):
            return _bounded(_power(_number(left, depth), _number(right, depth)))
        case ast.BinOp(left=left, op=op, right=right) if type(op) in _BINARY:
            return _bounded(_BINARY[type(op)](_number(left, depth), _number(right, depth)))
        case ast.Call(func=ast.Name(id="len"), args=[argument], keywords=[]):
            return Fraction(len(_string(argument, depth)))
        case ast.Call(func=ast.Attribute(value=text, attr="count"), args=[argument], keywords=[]):
            return Fraction(_string(text, depth).count(_string(argument, depth)))
    raise _Refused


def _number(node: ast.expr, depth: int) -> Fraction:
    value = _value(node, depth - 1)
    if isinstance(value, str):
        raise _Refused
    return value


def _string(node: ast.expr, depth: int) -> str:
    value = _value(node, depth - 1)
    if not isinstance(value, str):
        raise _Refused
    return value


def _power(base: Fraction, exponent: Fraction) -> Fraction:
    if exponent.denominator != 1:
        if base < 0:
            raise _Refused
        return Fraction(f"{float(base) ** float(exponent):.15g}")
    if abs(base) == 1:
        return Fraction(base.numerator if exponent % 2 else 1)
    if base != 0 and _bits(base) * abs(exponent) > 2 * MAX_BITS:
        raise _Refused
    return Fraction(base**exponent.numerator)


def _bounded(value: Fraction) -> Fraction:
    if _bits(value) > MAX_BITS:
        raise _Refused
    return value


def _bits(value: Fraction) -> int:
    return max(value.numerator.bit_length(), value.denominator.bit_length())


def _text(value: Fraction) -> str:
    if value.denominator == 1:
        return str(value.numerator)
    quotient = _QUOTIENTS.divide(Decimal(value.numerator), Decimal(value.denominator))
    decimals = max(2, SIGNIFICANT_DIGITS - 1 - quotient.adjusted())
    text = f"{quotient:.{decimals}f}".rstrip("0").rstrip(".")
    return "0" if text == "-0" else text
