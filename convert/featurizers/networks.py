"""The table of networks, and the function that builds one.

    NETWORKS         published size, classes and preprocessing of each network
    build_network    name -> Keras model with weights and notes

A network is a featurizer and a head. The head of a classifier is its last layer. SSD is all featurizer, because softmax, decoding
and non-maximum suppression run on the host (ssd_boxes.py).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import Any

from convert.featurizers.preprocessing import caffe, for_image_size, plain, signed, torch_style
from convert.featurizers.weights import load_weights
from convert.frameworks import import_keras
from edgewright.contracts.names import nearest
from edgewright.contracts.variant import Preprocessing
from edgewright.errors import BadInputError, NotFoundError

IMAGENET_CLASSES = 1000
SMALLEST_IMAGE = 32
"""A network that halves its feature maps five times needs at least 32 pixels."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Network:
    """Published properties of a network."""

    name: str
    description: str
    builder: str
    """`module:function`, called with Keras, the image's (height, width), and the number of classes."""
    parameters: int
    """Published count, including the published head."""
    image_size: int
    classes: int
    preprocessing: Preprocessing
    has_head: bool = True
    fixed_size: bool = False
    """The network is defined for its published image size only."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkNotes:
    """Facts about a network that its file stores in addition to layers and weights."""

    network: str
    preprocessing: Preprocessing
    head_layers: tuple[str, ...] = ()
    """Names of the head's layers; empty for a featurizer without head."""


@dataclass(frozen=True, slots=True)
class BuiltNetwork:
    """A Keras model and its notes."""

    model: Any
    notes: NetworkNotes


_ENTRIES = (
    Network(
        name="resnet50",
        description="ResNet-50 (He et al. 2015), 25.6 M parameters",
        builder="convert.featurizers.applications:resnet50",
        parameters=25_636_712,
        image_size=224,
        classes=IMAGENET_CLASSES,
        preprocessing=caffe(224),
    ),
    Network(
        name="resnet152",
        description="ResNet-152 (He et al. 2015), 60.4 M parameters",
        builder="convert.featurizers.applications:resnet152",
        parameters=60_419_944,
        image_size=224,
        classes=IMAGENET_CLASSES,
        preprocessing=caffe(224),
    ),
    Network(
        name="densenet121",
        description="DenseNet-121 (Huang et al. 2016), 8.1 M parameters",
        builder="convert.featurizers.applications:densenet121",
        parameters=8_062_504,
        image_size=224,
        classes=IMAGENET_CLASSES,
        preprocessing=torch_style(224),
    ),
    Network(
        name="vgg16",
        description="VGG-16 (Simonyan and Zisserman 2014), 138 M parameters",
        builder="convert.featurizers.applications:vgg16",
        parameters=138_357_544,
        image_size=224,
        classes=IMAGENET_CLASSES,
        preprocessing=caffe(224),
    ),
    Network(
        name="ssd-vgg",
        description="SSD300 on VGG-16 (Liu et al. 2015), boxes and classes of six feature maps",
        builder="convert.featurizers.ssd_vgg:ssd_vgg",
        parameters=26_285_486,
        image_size=300,
        classes=21,
        preprocessing=replace(caffe(300), resize_height=300, resize_width=300),
        has_head=False,
        fixed_size=True,
    ),
    Network(
        name="mobilenet-v2",
        description="MobileNetV2 (Sandler et al. 2018), 3.5 M parameters",
        builder="convert.featurizers.applications:mobilenet_v2",
        parameters=3_538_984,
        image_size=224,
        classes=IMAGENET_CLASSES,
        preprocessing=signed(224),
    ),
    Network(
        name="resnet8",
        description="ResNet-8 of MLPerf Tiny's image classification, 78,666 parameters",
        builder="convert.featurizers.resnet8:resnet8",
        parameters=78_666,
        image_size=32,
        classes=10,
        preprocessing=plain(32),
    ),
)

NETWORKS = {network.name: network for network in _ENTRIES}


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildOptions:
    """Options of a network; None: as published."""

    classes: int | None = None
    image_size: int | None = None
    weights: Path | None = None
    """A weights file; None: random weights from `seed`."""
    seed: int = 0
    featurizer_only: bool = False

    def __post_init__(self) -> None:
        if self.classes is not None and self.classes < 1:
            raise BadInputError(f"classes must be 1 or more, not {self.classes}")
        if not 0 <= self.seed < 2**32:  # the range of NumPy's legacy seeding, which Keras uses
            raise BadInputError(f"seed must be between 0 and 4294967295, not {self.seed}")


def find_network(name: str) -> Network:
    """Return the network called `name`.

    Raises:
        NotFoundError: there is no such network; the message suggests a similar name.
    """
    if name not in NETWORKS:
        raise NotFoundError(f"no network is called {name!r}{nearest(name, NETWORKS)}")
    return NETWORKS[name]


def build_network(name: str, options: BuildOptions | None = None) -> BuiltNetwork:
    """Build a network with weights from a file, or with random weights that depend on the seed only.

    Raises:
        NotFoundError: no network has that name, or the weights file does not exist.
        BadInputError: the network does not support the image size.
        ModelError: the weights do not fit.
    """
    network, options = find_network(name), options or BuildOptions()
    image_size = _checked_image_size(network, options.image_size)
    keras = import_keras()
    keras.utils.set_random_seed(options.seed)
    model = build_layers(keras, network, image_size, options.classes)
    if options.weights is not None:
        published = None if options.classes in (None, network.classes) else _published_builder(keras, network, image_size)
        load_weights(model, options.weights, has_head=network.has_head, published=published)
    preprocessing = for_image_size(network.preprocessing, image_size, network.image_size)
    head_layers = (model.layers[-1].name,) if network.has_head else ()
    built = BuiltNetwork(model, NetworkNotes(network=name, preprocessing=preprocessing, head_layers=head_layers))
    return without_head(built) if options.featurizer_only else built


def build_layers(keras: Any, network: Network, image_size: int | None = None, classes: int | None = None) -> Any:
    """Return the Keras model of `network` with its layers' initial weights."""
    module_name, _, function = network.builder.partition(":")
    size = image_size or network.image_size
    return getattr(import_module(module_name), function)(keras, (size, size), classes or network.classes)


def without_head(built: BuiltNetwork) -> BuiltNetwork:
    """Return the part of a network before its head, with shared layers; the network itself if it has no head."""
    if not built.notes.head_layers:
        return built
    keras = import_keras()
    first_of_head = built.model.get_layer(built.notes.head_layers[0])
    featurizer = keras.Model(built.model.inputs, first_of_head.input, name=f"{built.model.name}_featurizer")
    return BuiltNetwork(featurizer, replace(built.notes, head_layers=()))


def _checked_image_size(network: Network, image_size: int | None) -> int:
    if image_size is None or image_size == network.image_size:
        return network.image_size
    if network.fixed_size:
        raise BadInputError(f"{network.name} is defined for images of {network.image_size} pixels only, not {image_size}")
    smallest = min(SMALLEST_IMAGE, network.image_size)
    if image_size < smallest:
        raise BadInputError(f"{network.name} needs images of at least {smallest} pixels, not {image_size}")
    return image_size


def _published_builder(keras: Any, network: Network, image_size: int) -> Any:
    return lambda: build_layers(keras, network, image_size)
