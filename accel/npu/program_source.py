"""Load the program that a MODEL argument of `edgewright npu` names, the NPU that it is for, and the parts of the host.

a compiled program     its header names the NPU by hash; `--profile` must match
a build directory      the program of its NPU variant; with several of them, `--profile` chooses
a quantized graph      compiled for `--profile`

The parts of the host are those before and between the segments of the program; a compiled program alone has none.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from accel.npu.machines.host_parts import read_archive
from accel.npu.profile import NpuProfile, find_profile
from accel.npu.program import MAGIC, NpuProgram, read_program
from edgewright.contracts import wire
from edgewright.contracts.build_directory import BuildDirectory
from edgewright.contracts.variant import LayerKind, VariantDirectory
from edgewright.errors import BadInputError, ModelError, NotFoundError, PackageError
from hardware_profiles.hardware_profile import NPU_HASH, NPU_RECORD

if TYPE_CHECKING:
    import onnx

DEFAULT_PROFILE = "ulx3s-85f"


@dataclass(frozen=True, slots=True)
class LoadedProgram:
    """A program, the NPU that it is for, and the graphs of the host by the number of the segment that follows."""

    program: NpuProgram
    profile: NpuProfile
    host_graphs: Mapping[int, bytes]


def load_program(path: Path, profile_name: str | None) -> LoadedProgram:
    """Return the program with its NPU.

    Args:
        path: a compiled program, a quantized ONNX graph or a build directory.
        profile_name: the NPU; None takes the NPU of the build directory's only compiled program, else `DEFAULT_PROFILE`.

    Raises:
        BadInputError: `path` does not exist, or is a build directory with several programs and no profile was given.
        NotFoundError: `path` is a directory without a program for the NPU, or there is no such profile.
        ProfileError: the program was compiled for another NPU.
    """
    if path.is_dir():
        return _from_build(BuildDirectory.open(path), profile_name)
    if not path.is_file():
        raise BadInputError(f"{path}: no such file; it must be a quantized ONNX model, an NPU program or a build directory")
    profile = find_profile(profile_name or DEFAULT_PROFILE)
    with path.open("rb") as stream:
        is_program = stream.read(len(MAGIC)) == MAGIC
    return LoadedProgram(_read(path, profile), profile, {}) if is_program else _compiled(read_onnx(path), profile)


def _compiled(model: onnx.ModelProto, profile: NpuProfile) -> LoadedProgram:
    from accel.npu.compiler.host_part import host_parts
    from accel.npu.compiler.partition import compile_partitioned

    program = compile_partitioned(model, profile).program
    before = host_parts(model, program.description.runs, "model").before
    graphs = {at: part.SerializeToString() for at, part in enumerate(before) if part is not None}
    return LoadedProgram(program, profile, graphs)


def read_onnx(path: Path) -> onnx.ModelProto:
    """Read an ONNX file. The import is lazy: a device has compiled programs and no onnx."""
    import onnx

    if not path.is_file():
        raise BadInputError(f"{path}: no such file; it must be a quantized ONNX model")
    try:
        return onnx.load(path)
    except Exception as error:  # protobuf raises kinds of its own
        raise ModelError(f"{path} must be an ONNX model or an NPU program, but it cannot be read as either") from error


def _quoted(build: BuildDirectory) -> str:
    """Return the path of a build as a shell reads it."""
    return shlex.quote(str(build.path))


def _from_build(build: BuildDirectory, profile_name: str | None) -> LoadedProgram:
    compiled = [variant for variant in build.variants() if variant.file(LayerKind.NPU_PROGRAM).is_file()]
    if not compiled:
        raise NotFoundError(
            f"{build.path} must hold a variant compiled for an NPU, but it has none; run: edgewright compile {_quoted(build)} "
            f"--profile {profile_name or DEFAULT_PROFILE}"
        )
    profiles = [_profile(variant) for variant in compiled]
    if profile_name is not None:
        profile = find_profile(profile_name)
        variants = [variant for variant in compiled if variant.config.properties.get(NPU_HASH) == profile.hash.hex()]
        if not variants:
            raise NotFoundError(
                f"{build.path} has no program for the NPU {profile.name}, only for {_names(profiles)}; "
                f"run: edgewright compile {_quoted(build)} --profile {profile_name}"
            )
        return _of_variant(variants[0], profile)
    if len(compiled) > 1:
        raise BadInputError(f"{build.path} has programs for several NPUs; choose one with --profile: {_names(profiles)}")
    return _of_variant(compiled[0], profiles[0])


def _of_variant(variant: VariantDirectory, profile: NpuProfile) -> LoadedProgram:
    program = _read(variant.file(LayerKind.NPU_PROGRAM), profile)
    return LoadedProgram(program, profile, read_archive(variant.file(LayerKind.HOST_PARTS)))


def _profile(variant: VariantDirectory) -> NpuProfile:
    """Return the NPU from the variant's own record, so that it need not be a shipped one."""
    record = variant.config.properties.get(NPU_RECORD, "")
    what = f"the property {NPU_RECORD} of {variant.path}"
    return wire.decode(record.encode(), NpuProfile, what=what, error=PackageError)


def _names(profiles: list[NpuProfile]) -> str:
    return ", ".join(profile.name for profile in profiles)


def _read(path: Path, profile: NpuProfile) -> NpuProgram:
    program = read_program(path.read_bytes(), str(path))
    program.check_profile(profile)
    return program
