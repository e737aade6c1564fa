from __future__ import annotations

import json
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from edgewright.cli import main
from edgewright.contracts.variant import LayerKind
from tests.support.real_build import make_real_build

Run = Callable[..., Result]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run `edgewright packages …` in a directory that holds the build directory `build`."""
    monkeypatch.chdir(tmp_path)
    make_real_build(tmp_path / "build")

    def invoke(*arguments: str) -> Result:
        return CliRunner().invoke(main, ["packages", *arguments])

    return invoke


@pytest.fixture
def signed(run: Run) -> Run:
    """Add a package `package` that is signed by `publisher` as version 3."""
    assert run("build", "build", "-o", "package", "--name", "tiny").exit_code == 0
    assert run("keygen", "publisher").exit_code == 0
    assert run("sign", "package", "--key", "publisher", "--version", "3").exit_code == 0
    return run


def every_byte(folder: str) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in Path(folder).rglob("*") if path.is_file()}


def test_a_build_becomes_a_package_that_fits_the_profiles_which_run_its_precision(run: Run) -> None:
    built = run("build", "build", "-o", "package", "--name", "tiny", "--json")
    assert built.exit_code == 0, built.output
    (variant,) = json.loads(built.output)["variants"]
    profiles = ["generic-x86-64", "jetson-orin-nano", "raspberry-pi-4", "raspberry-pi-5", "x86-64-vnni"]
    assert variant["config"]["profiles"] == profiles


def test_the_output_of_inspect_is_golden(run: Run, golden: Callable[[str, str], None]) -> None:
    run("build", "build", "-o", "package", "--name", "tiny")
    golden("package_inspect.txt", run("inspect", "package").output)


def test_packing_twice_gives_the_same_bytes(run: Run) -> None:
    run("build", "build", "-o", "first", "--name", "tiny")
    run("build", "build", "-o", "second", "--name", "tiny")
    assert every_byte("first") == every_byte("second")


def test_a_variant_that_fails_the_golden_samples_is_packed_only_on_request(run: Run) -> None:
    weights = Path("build/variants/fp32") / LayerKind.HEAD_WEIGHTS.file_name
    weights.write_bytes(weights.read_bytes()[4:] + weights.read_bytes()[:4])
    result = run("build", "build", "-o", "package", "--name", "tiny")
    assert result.exit_code == 1
    assert result.output.startswith("edgewright: variant fp32 fails the golden samples: ")
    assert result.output.count("\n") == 1
    assert not Path("package").exists()
    assert run("build", "build", "-o", "package", "--name", "tiny", "--allow-mismatch").exit_code == 0


def test_a_signed_package_verifies(signed: Run) -> None:
    verified = signed("verify", "package", "--key", "publisher.pub", "--json")
    assert verified.exit_code == 0, verified.output
    assert json.loads(verified.output)["signature"]["version"] == 3


def test_a_package_is_unchanged_by_export_and_import(signed: Run) -> None:
    assert signed("export", "package", "-o", "tiny.tar").exit_code == 0
    assert signed("import", "tiny.tar", "-o", "copy", "--key", "publisher.pub").exit_code == 0
    assert every_byte("copy") == every_byte("package")
    assert signed("verify", "tiny.tar", "--key", "publisher.pub").exit_code == 0


def test_an_output_named_tar_is_the_tar_that_export_writes(run: Run) -> None:
    assert run("build", "build", "-o", "package", "--name", "tiny").exit_code == 0
    assert run("export", "package", "-o", "exported.tar").exit_code == 0
    for _ in ("written", "replaced"):
        built = run("build", "build", "-o", "tiny.tar", "--name", "tiny")
        assert built.exit_code == 0, built.output
        assert Path("tiny.tar").read_bytes() == Path("exported.tar").read_bytes()
    assert {path.name for path in Path().iterdir()} == {"build", "package", "exported.tar", "tiny.tar"}


@pytest.mark.parametrize("occupied", ["a directory", "a text", "another tar"])
def test_an_output_named_tar_replaces_no_other_file(run: Run, occupied: str) -> None:
    target = Path("tiny.tar")
    if occupied == "a directory":
        target.mkdir()
    elif occupied == "a text":
        target.write_text("mine")
    else:
        with tarfile.open(target, "w") as tar:
            tar.add("build/build.json")
    result = run("build", "build", "-o", "tiny.tar", "--name", "tiny")
    assert (result.exit_code, result.output) == (
        2,
        "edgewright: tiny.tar exists, but it is not a tar of a package: choose another output, or remove it\n",
    )
    assert {path.name for path in Path().iterdir()} == {"build", "tiny.tar"}


def change_a_byte(run: Run) -> None:
    blob = max(Path("package/blobs/sha256").iterdir(), key=lambda path: path.stat().st_size)
    blob.write_bytes(b"X" + blob.read_bytes()[1:])


def sign_with_an_untrusted_key(run: Run) -> None:
    run("keygen", "other")
    run("sign", "package", "--key", "other", "--version", "3")


def let_it_expire(run: Run) -> None:
    from datetime import UTC, datetime, timedelta

    from edgewright.contracts import package, signing
    from edgewright.contracts.oci import OciLayout

    layout = OciLayout.open(Path("package"))
    unsigned = package.read_package(layout)
    binding = signing.PackageSignature(
        index_digest=unsigned.digest, model="tiny", version=3, expires_at=datetime.now(UTC) - timedelta(seconds=1)
    )
    package.attach_signature(layout, unsigned, signing.sign_package(binding, signing.load_private_key(Path("publisher"))))


def forge_the_signature(run: Run) -> None:
    envelope = next(path for path in Path("package/blobs/sha256").iterdir() if b'"payloadType"' in path.read_bytes())
    manifest = next(path for path in Path("package/blobs/sha256").iterdir() if envelope.name.encode() in path.read_bytes())
    document = json.loads(envelope.read_bytes())
    document["signatures"][0]["sig"] = "A" * 86 + "=="
    from edgewright.contracts import package, wire
    from edgewright.contracts.oci import OciLayout

    layout = OciLayout.open(Path("package"))
    package.attach_signature(layout, package.read_package(layout), wire.encode(document))
    manifest.unlink()


def leave_out_the_signature(run: Run) -> None:
    run("build", "build", "-o", "package", "--name", "tiny")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        pytest.param(change_a_byte, "of that digest, but", id="a changed byte"),
        pytest.param(sign_with_an_untrusted_key, "the signature must be by a trusted key, but it is by", id="an unknown key"),
        pytest.param(let_it_expire, "the signature of tiny:3 expired at", id="an expired signature"),
        pytest.param(forge_the_signature, "the signature does not match its payload", id="a wrong signature"),
        pytest.param(leave_out_the_signature, "tiny is not signed", id="no signature"),
    ],
)
def test_a_damaged_package_is_rejected_in_one_line_and_not_imported(
    signed: Run, damage: Callable[[Run], None], message: str
) -> None:
    from edgewright.contracts.oci import OciLayout
    from edgewright.contracts.package import write_tar

    damage(signed)
    write_tar(OciLayout.open(Path("package")), Path("tiny.tar"))
    for result in (
        signed("verify", "package", "--key", "publisher.pub"),
        signed("import", "tiny.tar", "-o", "copy", "--key", "publisher.pub"),
    ):
        assert result.exit_code == 2
        assert message in result.output
        assert result.output.count("\n") == 1
    assert not Path("copy").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        pytest.param(["build", "nothing", "-o", "p", "--name", "tiny"], "nothing is not a build directory", id="no build"),
        pytest.param(["build", "build", "-o", "p", "--name", "Tiny"], "a model's name must be lower-case", id="bad name"),
        pytest.param(["build", "build", "-o", "build", "--name", "tiny"], "build exists, but it is not a package", id="occupied"),
        pytest.param(
            ["build", "build", "-o", "p", "--name", "tiny", "--variant", "int8"], "has no variant 'int8'", id="no variant"
        ),
        pytest.param(["build", "build", "-o", "p", "--name", "tiny", "--annotation", "x"], "KEY=VALUE", id="annotation"),
        pytest.param(["build", "build", "-o", "p", "--name", "tiny", "--profile", "pi"], "raspberry-pi-4", id="no profile"),
        pytest.param(["inspect", "build"], "is not a package", id="not a package directory"),
        pytest.param(["inspect", "build/build.json"], "is not a package", id="not a package file"),
        pytest.param(["verify", "nothing"], "no such package", id="nothing there"),
        pytest.param(["sign", "build", "--key", "nothing", "--version", "1"], "no such key", id="no key"),
    ],
)
def test_bad_input_is_an_error_of_one_line(run: Run, arguments: list[str], message: str) -> None:
    result = run(*arguments)
    assert result.exit_code == 2
    assert message in result.output
    assert result.output.count("\n") == 1
    assert not Path("p").exists()
