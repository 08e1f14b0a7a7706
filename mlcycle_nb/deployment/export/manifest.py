"""Manifests as text: YAML that every reader takes the same way, with notes at its top."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mlcycle_nb.errors import InvalidInput
from mlcycle_nb.files import write_atomically
from mlcycle_nb.notebook.html import escape, heading, paragraph, table, text_table

Manifest = dict[str, Any]
SIGN = "# Written by mlcycle:"
"""How a file of ours begins; any other file is not overwritten."""
_PLAIN = re.compile(r"[A-Za-z][A-Za-z0-9 ./_-]*[A-Za-z0-9]")


@dataclass(frozen=True, slots=True, kw_only=True)
class ManifestFile:
    """A file of manifests: its name and its text."""

    name: str
    text: str


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class ExportedPlan:
    """A rollout plan for a cluster.

    Attributes
    ----------
    target : str
        ``argo``, ``flagger`` or ``kserve``.
    reference, environment, strategy : str
        What is rolled out, where, and how.
    files : tuple of ManifestFile
        In the order in which they are applied.
    notes : tuple of str
        What is not carried over exactly; the same lines are comments at the top of the files.
    folder : Path, optional
        Where the files were written.
    """

    target: str
    reference: str
    environment: str
    strategy: str
    files: tuple[ManifestFile, ...]
    notes: tuple[str, ...]
    folder: Path | None = None

    @property
    def text(self) -> str:
        """All files, one after the other."""
        return "".join(file.text for file in self.files)

    def write(self, folder: Path | str) -> ExportedPlan:
        """Write the files into a folder, which is made when it is not there; return the plan with its place.

        Raises
        ------
        InvalidInput
            When the folder cannot be written, or a file of somebody else would be lost; then none is written.
        """
        place = Path(folder).expanduser()
        try:
            place.mkdir(parents=True, exist_ok=True)
            for file in self.files:
                _refuse_foreign(place / file.name)
            for file in self.files:
                write_atomically(place / file.name, file.text, mode=0o644)
        except OSError as failure:
            raise InvalidInput(
                f"cannot be written: {failure.strerror or failure}", value=str(folder), where="--to"
            ) from failure
        return replace(self, folder=place)

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON types."""
        return {
            "target": self.target,
            "reference": self.reference,
            "environment": self.environment,
            "strategy": self.strategy,
            "folder": None if self.folder is None else str(self.folder),
            "files": {file.name: file.text for file in self.files},
            "notes": list(self.notes),
        }

    def __repr__(self) -> str:
        lines = [self._title(), text_table(("file", "holds"), self._rows())]
        return "\n".join([*lines, *(f"note: {note}" for note in self.notes)])

    def _repr_html_(self) -> str:
        shown = "".join(
            f"<details><summary>{escape(file.name)}</summary><pre>{escape(file.text)}</pre></details>"
            for file in self.files
        )
        notes = "".join(paragraph(f"note: {note}") for note in self.notes)
        return heading(self._title()) + table(("file", "holds"), self._rows()) + notes + shown

    def _title(self) -> str:
        where = "" if self.folder is None else f", in {self.folder}"
        return f"{self.strategy} of {self.reference} in {self.environment}, for {self.target}{where}"

    def _rows(self) -> list[tuple[str, str]]:
        return [(file.name, ", ".join(re.findall(r"^kind: (\S+)", file.text, re.M))) for file in self.files]


def manifest_file(name: str, title: str, notes: Sequence[str], manifests: Iterable[Manifest]) -> ManifestFile:
    """Return a file of several documents with its title and notes as comments at the top."""
    top = [f"{SIGN} {title}", *(f"# - {note}" for note in notes)]
    return ManifestFile(name=name, text="\n".join(top) + "\n" + "".join(to_yaml(one) for one in manifests))


def to_yaml(manifest: Mapping[str, Any]) -> str:
    """Return one document.

    Texts that some reader of YAML takes for something else, such as ``1e5``, ``n`` or ``12:30``, are quoted; a text of
    several lines is a literal block.
    """
    import yaml

    class Dumper(yaml.SafeDumper):
        def ignore_aliases(self, data: Any) -> bool:
            return True

    def text(dumper: yaml.SafeDumper, value: str) -> yaml.Node:
        style = "|" if "\n" in value else (None if _PLAIN.fullmatch(value) else "'")
        return dumper.represent_scalar("tag:yaml.org,2002:str", value, style=style)

    Dumper.add_representer(str, text)
    return yaml.dump(dict(manifest), Dumper=Dumper, sort_keys=False, explicit_start=True, width=4096)


def metadata(name: str, namespace: str, **labels: str) -> Manifest:
    """Return the metadata of an object."""
    placed = {"namespace": namespace} if namespace else {}
    return {"name": name, **placed, "labels": dict(labels)} if labels else {"name": name, **placed}


def _refuse_foreign(path: Path) -> None:
    if path.is_symlink() or (path.exists() and not path.is_file()):
        raise InvalidInput("is no plain file, so it is not overwritten", value=str(path), where="--to")
    if path.exists():
        with path.open("rb") as stream:
            ours = stream.read(len(SIGN)) == SIGN.encode()
        if not ours:
            raise InvalidInput(
                "another file has this name; it is not overwritten", value=str(path), where="--to",
                remedy="choose another folder",
            )  # fmt: skip
