"""The definition of an environment: the base image, Python, packages and variables that a scoring script needs.

A definition that exists is valid. Its digest depends on the content alone, without the name: the same content is built once.
Names follow Azure Machine Learning's rule for assets: letters, digits, '-', '_' and '.', at most 255 characters, and none of
Azure's own prefixes.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from datetime import datetime

from edgewright.contracts import wire
from edgewright.errors import BadInputError, NotFoundError

MAX_PACKAGES = 1000
MAX_VARIABLES = 200
MAX_DOCKERFILE_CHARACTERS = 100_000

SERVER_PACKAGES = ("azureml-defaults", "azureml-inference-server-http", "azureml-core", "inference-schema")
"""Distributions of Azure's scoring server and its helpers; edgewright's own server takes their place in an image."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,254}")
_RESERVED = ("azureml", "microsoft")
_PYTHON = re.compile(r"3\.[0-9]{1,2}(?:\.[0-9]{1,3})?")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_IMAGE = re.compile(
    r"(?:[A-Za-z0-9.-]+(?::[0-9]{1,5})?/)?[a-z0-9]+(?:[._/-]+[a-z0-9]+)*(?::[A-Za-z0-9_][A-Za-z0-9._-]{0,127})?(?:@sha256:[0-9a-f]{64})?"
)
_PACKAGE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_CHANNEL = re.compile(r"[A-Za-z0-9_./:@%+-]+")


@dataclass(frozen=True, slots=True, kw_only=True)
class Environment:
    """A named list of what a scoring script needs; every field but the name may stay empty."""

    name: str
    description: str = ""
    python_version: str = ""
    """Version of Python, such as 3.11; empty: that of the machine that builds the image."""
    base_image: str = ""
    """Reference of an image, such as registry.example:5000/python:3.11; empty: the building machine's own Python."""
    pip_packages: tuple[str, ...] = ()
    """Requirements in pip's notation, such as scikit-learn==1.5.2."""
    pip_index_url: str = ""
    """Package index for pip; empty: the one that the building machine is configured for."""
    conda_packages: tuple[str, ...] = ()
    """Packages in conda's notation, such as numpy=1.26."""
    conda_channels: tuple[str, ...] = ()
    variables: dict[str, str] = field(default_factory=dict)
    """Environment variables of the script; not for secrets: everyone who can pull the image can read them."""
    dockerfile: str = ""
    """Text of a Dockerfile that makes the base image; needs a docker engine."""
    inferencing_stack_version: str = ""
    """Accepted for Azure's sake (latest or a version); edgewright's own server is always used."""

    def __post_init__(self) -> None:
        check_environment_name(self.name)
        if self.dockerfile and self.base_image:
            raise BadInputError(f"environment {self.name} must have a base image or a Dockerfile, not both: omit one")
        _check_versions(self)
        _check_packages(self)
        _check_variables(self.variables)

    @property
    def digest(self) -> str:
        """SHA-256 digest of the content; equal for definitions that differ only in name and description."""
        return wire.digest_of(wire.encode(replace(self, name="any", description="")))


@dataclass(frozen=True, slots=True, kw_only=True)
class EnvironmentVersion:
    """A registered definition with its number; numbers are 1, 2, 3, … per name."""

    environment: Environment
    version: int
    digest: str
    created_at: datetime

    @property
    def name(self) -> str:
        """Name of the environment."""
        return self.environment.name


@dataclass(frozen=True, slots=True)
class EnvironmentReference:
    """Name and number of an environment; without a number, the newest."""

    name: str
    version: int | None = None

    def __str__(self) -> str:
        return self.name if self.version is None else f"{self.name}:{self.version}"


def check_environment_name(name: str) -> str:
    """Return `name`; raise `BadInputError` if Azure's rules refuse it."""
    if not _NAME.fullmatch(name):
        raise BadInputError(
            "an environment's name must be letters, digits, '-', '_' and '.', begin with a letter or digit and have at most "
            f"255 characters, not {name[:64]!r}"
        )
    if name.lower().startswith(_RESERVED):
        raise BadInputError(
            f"an environment's name must not begin with AzureML or Microsoft, which Azure reserves, but {name[:64]!r} does"
        )
    return name


def parse_environment_reference(text: str) -> EnvironmentReference:
    """Parse `NAME` or `NAME:VERSION`; raise `BadInputError` for anything else."""
    name, colon, version = text.partition(":")
    check_environment_name(name)
    if not colon:
        return EnvironmentReference(name)
    if not re.fullmatch(r"[1-9][0-9]{0,8}", version):
        raise BadInputError(f"the version of an environment must be a whole number from 1, as in {name}:3, not {version[:64]!r}")
    return EnvironmentReference(name, int(version))


def find_version(versions: tuple[EnvironmentVersion, ...], reference: EnvironmentReference) -> EnvironmentVersion:
    """Return the version that a reference names among all versions of an environment, oldest first."""
    if reference.version is None:
        return versions[-1]
    for each in versions:
        if each.version == reference.version:
            return each
    raise NotFoundError(f"environment {reference.name} has no version {reference.version}; its newest is {versions[-1].version}")


def _check_versions(environment: Environment) -> None:
    if environment.python_version and not _PYTHON.fullmatch(environment.python_version):
        raise BadInputError(f"python_version must be a version such as 3.11, not {environment.python_version[:64]!r}")
    if environment.base_image and (len(environment.base_image) > 400 or not _IMAGE.fullmatch(environment.base_image)):
        raise BadInputError(
            f"base_image must be a reference such as registry.example:5000/python:3.11, not {environment.base_image[:100]!r}"
        )
    if len(environment.dockerfile) > MAX_DOCKERFILE_CHARACTERS:
        raise BadInputError(f"a Dockerfile must have at most {MAX_DOCKERFILE_CHARACTERS} characters")
    if environment.pip_index_url and not environment.pip_index_url.startswith(("https://", "http://", "file://")):
        raise BadInputError(
            f"pip_index_url must be an address such as https://host/simple, not {environment.pip_index_url[:100]!r}"
        )


def _check_packages(environment: Environment) -> None:
    for kind, packages in (("pip", environment.pip_packages), ("conda", environment.conda_packages)):
        if len(packages) > MAX_PACKAGES:
            raise BadInputError(f"an environment must have at most {MAX_PACKAGES} {kind} packages, not {len(packages)}")
        for package in packages:
            # An option such as --index-url in place of a package would reach the command line of the installer.
            if not _PACKAGE_NAME.match(package) or not package.isprintable() or len(package) > 500:
                raise BadInputError(f"a {kind} package must be a name with an optional version, not {package[:100]!r}")
    for channel in environment.conda_channels:
        if not _CHANNEL.fullmatch(channel):
            raise BadInputError(f"a conda channel must be a name or an address, not {channel[:100]!r}")


def _check_variables(variables: dict[str, str]) -> None:
    if len(variables) > MAX_VARIABLES:
        raise BadInputError(f"an environment must have at most {MAX_VARIABLES} variables, not {len(variables)}")
    for name, value in variables.items():
        if not _VARIABLE.fullmatch(name) or "\0" in value or len(value) > 32_768:
            raise BadInputError(
                f"a variable must have a name of letters, digits and '_', and a value of text, unlike {name[:64]!r}"
            )
