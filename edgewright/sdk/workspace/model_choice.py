"""Choose a version of a model by its facts, and the files of a folder that become a version."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from edgewright.contracts.messages import ModelVersion
from edgewright.contracts.models.registration import Registration
from edgewright.contracts.names import PackageReference, parse_reference
from edgewright.errors import BadInputError, NotFoundError
from edgewright.sdk.workspace.resources import framework_of


class Choice:
    """Tags, properties, run and framework that a version must have."""

    def __init__(
        self,
        tags: Sequence[str] | None,
        properties: Sequence[str] | None,
        run_id: str | None,
        model_framework: str | None,
    ) -> None:
        self._tags = [_pair(each) for each in tags or ()]
        self._properties = [_pair(each) for each in properties or ()]
        self._run_id = run_id
        self._framework = None if model_framework is None else framework_of(model_framework)

    def fits(self, version: ModelVersion) -> bool:
        """Return True if a version has all of them."""
        facts = version.registration or Registration()
        return (
            all(_has(facts.tags, each) for each in self._tags)
            and all(_has(facts.properties, each) for each in self._properties)
            and self._run_id in (None, facts.run)
            and self._framework in (None, facts.framework)
        )


def _pair(text: str | Sequence[str]) -> tuple[str, str | None]:
    if not isinstance(text, str):
        return text[0], text[1] if len(text) > 1 else None
    name, equals, value = text.partition("=")
    return name, value if equals else None


def _has(labels: Mapping[str, str], pair: tuple[str, str | None]) -> bool:
    name, value = pair
    return name in labels and value in (None, labels[name])


def reference_of(name: str | None, identity: str | None, version: int | None) -> PackageReference:
    """Return the reference in `name` or `identity`, of which one must be given."""
    if (name is None) == (identity is None):
        raise BadInputError(
            "a model must be named by name or by id, and not by both: Model(ws, 'churn') or Model(ws, id='churn:3')"
        )
    reference = parse_reference(identity or name or "")
    return reference if version is None else PackageReference(reference.name, version)


@contextlib.contextmanager
def chosen_files(path: Path, child_paths: Sequence[str] | None) -> Iterator[Path]:
    """Yield the file or folder to register; for `child_paths`, a folder of the same name with copies of these files."""
    if child_paths is None:
        yield path
        return
    with tempfile.TemporaryDirectory() as parent:
        staging = Path(parent) / path.resolve().name
        for child in child_paths:
            source = path / Path(child).relative_to(path) if Path(child).is_relative_to(path) else path / child
            if not source.is_file():
                raise NotFoundError(f"{source}: no such file; child_paths are files below model_path")
            target = staging / source.relative_to(path)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, target)
        yield staging
