"""Place names from numbers: short and in capital letters, which take a tokenizer one or two tokens."""

from __future__ import annotations

BASE = 26


def letters(number: int, width: int) -> str:
    """`number` in base 26 with the digits A-Z, at least `width` digits: letters(10, 1) == "K"."""
    digits: list[str] = []
    while number or len(digits) < width:
        number, digit = divmod(number, BASE)
        digits.append(chr(ord("A") + digit))
    return "".join(reversed(digits))


def width_for(count: int) -> int:
    """Digits needed to name `count` things."""
    width = 1
    while BASE**width < count:
        width += 1
    return width


def letters_sql(number: str, width: int) -> str:
    """`letters` as a DuckDB expression over the integer expression `number`, which must fit `width` digits."""
    return " || ".join(
        f"chr(CAST(65 + (({number}) // {BASE**place}) % {BASE} AS INTEGER))" for place in reversed(range(width))
    )
