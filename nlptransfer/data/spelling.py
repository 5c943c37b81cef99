"""Compare how label names are spelled: one number in two spellings, near twins, several names in one. Knows no rows."""

import json
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping

DELIMITERS = "|;,/"
"""What may join several names in one."""
MOST_NUMBERS = 20
"""So many different numbers with fractions may still be names, as of versions."""
TRUTHS = {"true": True, "false": False}
_WHOLE = re.compile(r"-?[0-9]+(\.0*)?")
_DECIMAL_WHOLE = re.compile(r"(-?(?:0|[1-9][0-9]*))\.0*")
_NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")
_VARIATION_SELECTORS = range(0xFE00, 0xFE10)


def canonical(name: str) -> str:
    """Spell a whole number without decimals and a truth in lower case; any other name stays, "01" too."""
    if whole := _DECIMAL_WHOLE.fullmatch(name):
        return "0" if whole[1] == "-0" else whole[1]
    lower = name.casefold()
    return lower if lower in TRUTHS else name


def spelled_alike(names: Iterable[str]) -> dict[str, str]:
    """Map names to one spelling if all are whole numbers, or all are truths; else each to itself."""
    names = set(names)
    are_alike = all(map(_WHOLE.fullmatch, names)) or all(name.casefold() in TRUTHS for name in names)
    return {name: canonical(name) if are_alike else name for name in names}


def are_measurements(names: Iterable[str]) -> bool:
    """Tell whether names are more numbers than classes have, with fractions among them."""
    names = set(names)
    fractions = (not _WHOLE.fullmatch(name) for name in names)
    return len(names) > MOST_NUMBERS and all(map(_NUMBER.fullmatch, names)) and any(fractions)


def near_twins(rows: Mapping[str, int]) -> dict[str, list[str]]:
    """Group names that differ by case, white space, invisible characters or compatibility forms alone.

    Args:
        rows: how many rows each name has.

    Returns:
        the other spellings by the most frequent one, for each name that has others.
    """
    groups = defaultdict[str, list[str]](list)
    for name in rows:
        groups[_visible(name)].append(name)
    ordered = (
        sorted(group, key=lambda name: (-rows[name], not name.isprintable(), name))
        for group in groups.values()
        if len(group) > 1
    )
    return {most: others for most, *others in ordered}


def joined_name(names: Iterable[str]) -> tuple[str, str] | None:
    """Find a name that is several names joined, and by what; None where there is none.

    It is one where a part other than its first stands elsewhere as a name, or as the first part of one; a comma or a
    slash must have all its parts elsewhere too, as "Books, Movies" may be one label beside "Movies". It is one as well
    where all parts of all such names recur. In a hierarchy ("sport/tennis") a part keeps its depth, and leaves differ.
    """
    names = sorted(set(names))
    for delimiter in DELIMITERS:
        parts = {name: [part.strip() for part in name.split(delimiter)] for name in names if delimiter in name}
        joined = [name for name in parts if all(parts[name])]
        first = {*(name for name in names if name not in parts), *(parts[name][0] for name in joined)}
        used = Counter(part for name in names for part in {*parts.get(name, [name])})
        recurring = [name for name in joined if all(used[part] > 1 for part in parts[name])]
        for name in recurring if delimiter in ",/" else joined:
            if any(part in first for part in parts[name][1:] if part != parts[name][0]):
                return name, delimiter
        if len(joined) > 1 and recurring == joined:
            return joined[0], delimiter
    return None


def as_mapping(twins: Mapping[str, Iterable[str]]) -> str:
    """Write which spellings become which as JSON, with what is invisible escaped."""
    text = json.dumps({other: most for most, others in twins.items() for other in others}, ensure_ascii=False)
    return "".join(letter if letter.isprintable() else json.dumps(letter)[1:-1] for letter in text)


def _visible(name: str) -> str:
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", name).casefold())
    words = " ".join(folded.split())
    return "".join(
        letter
        for letter in words
        if unicodedata.category(letter) not in ("Cf", "Cc") and ord(letter) not in _VARIATION_SELECTORS
    ).strip()
