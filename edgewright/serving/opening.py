"""Open what a service serves: the application for a script, a model file, or a variant. Each kind loads only what it needs."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from edgewright.errors import BadInputError, PackageError
from edgewright.serving.nocode.identify import Framework, framework_of
from edgewright.serving.served import SCRIPT_SUFFIX, Served

if TYPE_CHECKING:
    from accel.backends.backend import Session
    from edgewright.contracts.variant import VariantConfig, VariantDirectory
    from edgewright.serving.http.application import HttpApp
    from edgewright.serving.http.keys import KeyFile
    from edgewright.serving.scripts.app import ScriptApp
    from edgewright.serving.variants.app import ScoringApp

_MODEL_WORKER = "edgewright.serving.nocode.worker"


@contextlib.contextmanager
def application(served: Served, keys: KeyFile | None) -> Iterator[HttpApp]:
    """Yield the application for a script, a model file, or a variant."""
    path = served.path
    served.check()
    if path.suffix == SCRIPT_SUFFIX:
        yield _in_workers(served, keys, backend="python")
        return
    framework = framework_of(path)
    if framework not in (None, Framework.ONNX):
        assert framework is not None
        yield _in_workers(served, keys, backend=framework, module=_MODEL_WORKER)
        return
    with open_session(path, variant=served.variant, backend=served.backend, threads=served.threads) as (session, config):
        yield _in_this_process(session, config, served, keys)


@contextlib.contextmanager
def open_session(
    path: Path, *, variant: str | None = None, backend: str = "auto", threads: int | None = None
) -> Iterator[tuple[Session, VariantConfig]]:
    """Yield the session of an ONNX file, or of a variant in a build directory or package, and its description.

    Raises:
        BadInputError: the path holds no variant, or not the one that is named.
        ModelError: the backend cannot load it.
    """
    if framework_of(path) is Framework.ONNX:
        from edgewright.serving.nocode.onnx_graph import open_graph

        yield open_graph(path, threads=threads)
        return
    from accel.backends.choose import load_session

    with _variant_in(path, variant) as chosen:
        yield load_session(chosen, backend=backend, threads=threads), chosen.config


def _in_workers(served: Served, keys: KeyFile | None, *, backend: str, module: str | None = None) -> ScriptApp:
    from edgewright.serving.scripts.app import ScriptApp
    from edgewright.serving.scripts.options import SCRIPT_WORKER, ScriptOptions

    options = ScriptOptions(
        path=served.path,
        model_directory=served.model_dir,
        worker_count=served.workers,
        init_timeout_s=served.init_timeout,
        scoring_timeout_s=served.scoring_timeout,
        queue_timeout_s=served.queue_timeout,
        trust=served.trust,
        worker_module=module or SCRIPT_WORKER,
    )
    return ScriptApp(options, name=served.model_name, backend=backend, keys=keys)


def _in_this_process(session: Session, config: VariantConfig, served: Served, keys: KeyFile | None) -> ScoringApp:
    from edgewright.serving.variants.app import ScoringApp

    return ScoringApp(
        session,
        config,
        model=served.model_name,
        version=1,
        keys=keys,
        inference_timeout_s=served.scoring_timeout,
        queue_timeout_s=served.queue_timeout,
    )


@contextlib.contextmanager
def _variant_in(path: Path, name: str | None) -> Iterator[VariantDirectory]:
    """Yield the named variant, or the one that fits this machine best; those of a package are unpacked until the block ends."""
    from accel.bench import open_targets

    with open_targets(path, name) as targets:
        variants = {target.name: target.variant for target in targets if target.variant is not None}
        if not variants:
            raise BadInputError(f"{path} must be an entry script, a model file, a build directory or a package")
        yield variants[name or _best(path, [each.config.variant for each in variants.values()], variants)]


def _best(path: Path, names: list[str], variants: dict[str, VariantDirectory]) -> str:
    """Return the name of the variant that the profile of this machine prefers; the first one without a profile."""
    from hardware_profiles.catalog import shipped_profiles
    from hardware_profiles.detect import detect, read_machine
    from hardware_profiles.match import match

    profile = detect(read_machine(), shipped_profiles()).profile
    if len(names) == 1 or profile is None:
        return names[0]
    matched = match(profile, [each.config for each in variants.values()])
    if matched.chosen is None:
        raise PackageError(f"{path} must have a variant for {profile.name}: {' '.join(matched.sentences)}")
    return matched.chosen
