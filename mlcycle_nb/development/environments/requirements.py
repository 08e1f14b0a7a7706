"""What an environment is asked to hold: read and refused before anything is stored."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from mlcycle_nb.errors import InvalidInput
from mlcycle_nb.files import read_small_file


def read_requirements(path: Path) -> list[str]:
    """Return the requirements in a file, one a line.

    Raises
    ------
    InvalidInput
        When there is no such file, or with the first line that is no requirement.
    """
    if not path.is_file():
        raise InvalidInput("there is no such requirements file", value=str(path), where="--requirements")
    found = []
    for number, line in enumerate(read_small_file(path).splitlines(), 1):
        text = re.sub(r"(^|\s)#.*", "", line).strip()
        if text:
            found.append(check_requirement(text, where=f"{path.name} line {number}", beside=path.parent))
    return found


def check_requirement(text: str, *, where: str = "--package", beside: Path | None = None) -> str:
    """Return one requirement in its plain form; a path to a wheel becomes absolute."""
    from packaging.requirements import InvalidRequirement, Requirement

    if text.startswith("-"):
        raise InvalidInput(
            "an option is not a requirement",
            value=text,
            where=where,
            remedy="give --find-links and --no-index to %environment; write everything else as name==version",
        )
    if text.endswith(".whl"):
        wheel = (beside or Path.cwd()) / Path(text).expanduser()
        if not wheel.is_file():
            raise InvalidInput("there is no such wheel", value=text, where=where)
        return str(wheel.resolve())
    try:
        return str(Requirement(text))
    except InvalidRequirement as refused:
        problem = str(refused).splitlines()[0]
        raise InvalidInput(
            f"not a requirement: {problem}",
            value=text,
            where=where,
            remedy="write such as numpy==2.1 or 'pandas>=2,<3'",
        ) from None


def refuse_contradictions(requirements: Iterable[str]) -> None:
    """Refuse two exact versions of one package: no installer could bring both."""
    from packaging.requirements import Requirement
    from packaging.utils import canonicalize_name

    exact: dict[str, str] = {}
    for text in requirements:
        if text.endswith(".whl"):
            continue
        requirement = Requirement(text)
        name = canonicalize_name(requirement.name)
        for specifier in requirement.specifier:
            if specifier.operator != "==" or requirement.marker is not None or "*" in specifier.version:
                continue
            if exact.setdefault(name, specifier.version) != specifier.version:
                raise InvalidInput(
                    f"{name} is asked for in two versions, {exact[name]} and {specifier.version}",
                    where="%environment create",
                    remedy="keep one",
                )


def check_links(places: Sequence[str]) -> tuple[str, ...]:
    """Return folders of wheels as absolute paths; addresses as they are."""
    found = []
    for place in places:
        if re.match(r"https?://", place):
            found.append(place)
            continue
        path = Path(place).expanduser().resolve()
        if not path.exists():
            raise InvalidInput("there is no such folder of packages", value=place, where="--find-links")
        found.append(str(path))
    return tuple(found)
