"""`edgewright endpoints render`: write the manifests of an endpoint for a Kubernetes cluster."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from edgewright.command_line import common_options, print_json
from edgewright.contracts.files import write_atomically
from edgewright.errors import BadInputError
from edgewright.kubernetes.endpoint import ClusterDeployment, ClusterEndpoint, Resources, Scale
from edgewright.kubernetes.render import Format, render
from edgewright.serving.http.keys import KeyFile


def _deployment(text: str) -> tuple[str, str]:
    name, equals, image = text.partition("=")
    if not (name and equals and image):
        raise click.BadParameter(f"must be NAME=IMAGE, as in blue=registry.example/churn:1, not {text!r}")
    return name, image


def _share(text: str) -> tuple[str, int]:
    name, equals, percent = text.partition("=")
    if not (name and equals and percent.removesuffix("%").isdecimal()):
        raise click.BadParameter(f"must be NAME=PERCENT, as in blue=90, not {text!r}")
    return name, int(percent.removesuffix("%"))


def endpoint_options(command: Any) -> Any:
    """Add the options that describe an endpoint of a cluster."""
    options = (
        click.option("--image", help="Image of the only deployment: HOST/NAME:TAG or HOST/NAME@DIGEST."),
        click.option(
            "--deployment", "deployments", type=_deployment, multiple=True, metavar="NAME=IMAGE", help="One of several."
        ),
        click.option(
            "--traffic", type=_share, multiple=True, metavar="NAME=PERCENT", help="Share of the requests of a deployment."
        ),
        click.option(
            "--mirror", type=_share, metavar="NAME=PERCENT", help="Copy this share to a deployment; its answers are discarded."
        ),
        click.option("--cpu", type=float, default=0.5, show_default=True, help="Processors that each replica requests."),
        click.option("--cpu-limit", type=float, help="Processors that it may use; default: what its node has idle."),
        click.option("--memory-gb", type=float, default=0.5, show_default=True, help="Memory in GB that each replica requests."),
        click.option("--memory-limit-gb", type=float, help="Memory that it may use; default: what it requests."),
        click.option("--gpus", type=click.IntRange(0), default=0, help="GPUs of each replica (nvidia.com/gpu)."),
        click.option("--replicas", type=int, help="Number of replicas; default: 1."),
        click.option("--min-replicas", type=int, help="Smallest number of replicas, with --max-replicas; default: 1."),
        click.option("--max-replicas", type=int, help="Largest number of replicas: their number follows the load."),
        click.option(
            "--target-utilization", type=int, default=70, show_default=True, help="Percent of the processors to aim at."
        ),
        click.option("--namespace", default="", help="Namespace of the objects; default: that of kubectl."),
        click.option("--host", default="", help="Host name outside of the cluster."),
        click.option("--gateway", default="", metavar="[NAMESPACE/]NAME", help="Gateway of the host; default: an Ingress."),
        click.option(
            "--load-balancer",
            "load_balancer_port",
            type=click.IntRange(1, 65535),
            metavar="PORT",
            help="Ask the provider of the cluster for a load balancer on this port.",
        ),
        click.option(
            "--keys",
            type=click.Path(path_type=Path, exists=True, dir_okay=False),
            help="Write the keys of this file as a Secret.",
        ),
        click.option("--no-keys", is_flag=True, help="Answer without a key."),
        click.option(
            "--init-timeout",
            "init_timeout_s",
            type=click.FloatRange(1),
            default=300.0,
            show_default=True,
            help="Seconds to start.",
        ),
        click.option(
            "--allow-egress", is_flag=True, help="Let the replicas open connections, for a script that calls other services."
        ),
    )
    for option in reversed(options):
        command = option(command)
    return command


def endpoint_of(name: str, options: dict[str, Any]) -> tuple[ClusterEndpoint, str]:
    """Return the endpoint that the options describe, and the text of its file of keys or an empty one."""
    if options["keys"] is not None and options["no_keys"]:
        raise BadInputError("an endpoint must have --keys or --no-keys, not both")
    if options["keys"] is not None:
        KeyFile(options["keys"])
    endpoint = ClusterEndpoint(
        name=name,
        deployments=_deployments(options["image"], options["deployments"], dict(options["traffic"]), options["mirror"]),
        mirror=options["mirror"],
        resources=Resources(**{each: options[each] for each in ("cpu", "cpu_limit", "memory_gb", "memory_limit_gb", "gpus")}),
        scale=Scale(**{each: options[each] for each in ("replicas", "min_replicas", "max_replicas", "target_utilization")}),
        namespace=options["namespace"],
        has_keys=not options["no_keys"],
        init_timeout_s=options["init_timeout_s"],
        host=options["host"],
        gateway=options["gateway"],
        load_balancer_port=options["load_balancer_port"] or 0,
        allows_egress=options["allow_egress"],
    )
    return endpoint, "" if options["keys"] is None else options["keys"].read_text("utf-8")


@click.command("render")
@click.argument("name")
@click.option("--format", "kind", type=click.Choice([each.value for each in Format]), default="kubernetes", show_default=True)
@endpoint_options
@click.option(
    "-o", "--output", type=click.Path(path_type=Path, file_okay=False), help="Folder of the files; default: print them."
)
@common_options
def command(name: str, *, kind: str, output: Path | None, as_json: bool, **options: Any) -> None:
    """Write the manifests of an endpoint for Kubernetes or KServe.

    The image is one of 'edgewright images build', in a registry that the cluster reaches. The pods run without rights; the keys
    come from the Secret NAME-keys. The files are applied with 'kubectl apply -k FOLDER'.
    """
    endpoint, keys = endpoint_of(name, options)
    _write(render(endpoint, Format(kind), keys), output, as_json=as_json)


def _deployments(
    image: str | None, named: tuple[tuple[str, str], ...], shares: dict[str, int], mirror: tuple[str, int] | None
) -> tuple[ClusterDeployment, ...]:
    """Return the deployments; the only one, or the only one that is no mirror, has all requests."""
    if (image is None) == (not named):
        raise BadInputError(
            "an endpoint must have --image, or --deployment for each of several, but "
            + ("both were" if image else "none was")
            + " given"
        )
    pairs = named or (("main", image or ""),)
    unknown = sorted(shares.keys() - {name for name, _ in pairs})
    if unknown:
        raise BadInputError(f"--traffic must name a deployment ({', '.join(name for name, _ in pairs)}), not {unknown[0]!r}")
    live = [name for name, _ in pairs if mirror is None or name != mirror[0]]
    default = dict.fromkeys(live, 100) if len(live) == 1 and not shares else {}
    return tuple(ClusterDeployment(name=name, image=each, traffic=shares.get(name, default.get(name, 0))) for name, each in pairs)


def _write(files: dict[str, str], output: Path | None, *, as_json: bool) -> None:
    if output is None:
        if as_json:
            print_json(files)
        else:
            click.echo("---\n".join(text for name, text in files.items() if name != "kustomization.yaml"), nl=False)
        return
    output.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        write_atomically(output / name, text.encode(), mode=0o600 if name == "secret.yaml" else 0o644)
    if as_json:
        print_json({"folder": output, "files": list(files)})
        return
    first = f"kubectl apply -k {output}" if "kustomization.yaml" in files else f"kubectl apply -f {output / next(iter(files))}"
    click.echo(f"{output}: {', '.join(files)}; apply with: {first}")
