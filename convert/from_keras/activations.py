"""Rules for Keras's activation functions and activation layers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from convert.from_keras.call import Call, floats_of
from convert.from_keras.custom_layers import registered_name
from convert.from_keras.layouts import Layout, Tensor, constant_in_order_of

Rule = Callable[[Call], Tensor]


def _operator(operator: str, **attributes: Any) -> Callable[[Call, Tensor], Tensor]:
    return lambda call, x: replace(x, value=call.node(operator, x.value, **attributes))


def _clip(low: float, high: float) -> Callable[[Call, Tensor], Tensor]:
    def rule(call: Call, x: Tensor) -> Tensor:
        return replace(x, value=call.node("Clip", x.value, call.constant("low", low), call.constant("high", high)))

    return rule


def _over_channels(operator: str) -> Callable[[Call, Tensor], Tensor]:
    return lambda call, x: replace(x, value=call.node(operator, x.value, axis=x.axis(-1)))


def _silu(call: Call, x: Tensor) -> Tensor:
    return replace(x, value=call.node("Mul", x.value, call.node("Sigmoid", x.value)))


def _linear(_call: Call, x: Tensor) -> Tensor:
    return x


FUNCTIONS: dict[str, Callable[[Call, Tensor], Tensor]] = {
    "linear": _linear,
    "relu": _operator("Relu"),
    "relu6": _clip(0.0, 6.0),
    "leaky_relu": _operator("LeakyRelu", alpha=0.2),
    "elu": _operator("Elu"),
    "selu": _operator("Selu"),
    "celu": _operator("Celu"),
    "gelu": _operator("Gelu"),
    "mish": _operator("Mish"),
    "sigmoid": _operator("Sigmoid"),
    "hard_sigmoid": _operator("HardSigmoid", alpha=1 / 6, beta=0.5),
    "silu": _silu,
    "hard_silu": _operator("HardSwish"),
    "tanh": _operator("Tanh"),
    "hard_tanh": _clip(-1.0, 1.0),
    "softplus": _operator("Softplus"),
    "softsign": _operator("Softsign"),
    "exponential": _operator("Exp"),
    "softmax": _over_channels("Softmax"),
    "log_softmax": _over_channels("LogSoftmax"),
}
"""Rules by the function's own name; aliases such as `swish` are the same function."""


def activate(call: Call, x: Tensor) -> Tensor:
    """Apply the `activation` argument of the call's layer to `x`."""
    activation = call.layer.activation
    if activation is None:
        return x
    if hasattr(activation, "get_config"):  # a layer used as an activation
        inner = replace(call, layer=activation, inputs=(x,), output_shape=x.shape)
        if type(activation).__name__ not in LAYERS:
            raise call.unsupported(f"the activation {type(activation).__name__} is not supported")
        return LAYERS[type(activation).__name__](inner)
    name = getattr(activation, "__name__", repr(activation))
    is_builtin = str(getattr(activation, "__module__", "")).startswith("keras.")
    if not is_builtin and registered_name(activation) in call.converters:
        return call.converters[registered_name(activation)](replace(call, inputs=(x,), output_shape=x.shape))
    if name not in FUNCTIONS or not is_builtin:
        raise call.unsupported(f"the activation {name!r} is not supported")
    return FUNCTIONS[name](call, x)


def _activation(call: Call) -> Tensor:
    return activate(call, call.only)


def _relu(call: Call) -> Tensor:
    layer, x = call.layer, call.only
    if layer.threshold:
        raise call.unsupported(f"threshold={layer.threshold}; only 0 is supported")
    if layer.negative_slope:
        x = replace(x, value=call.node("LeakyRelu", x.value, alpha=float(layer.negative_slope)))
    elif layer.max_value is None:
        x = replace(x, value=call.node("Relu", x.value))
    if layer.max_value is None:
        return x
    low = None if layer.negative_slope else call.constant("low", 0.0)
    return replace(x, value=call.node("Clip", x.value, low, call.constant("high", layer.max_value)))


def _leaky_relu(call: Call) -> Tensor:
    return call.like_input(call.node("LeakyRelu", call.only.value, alpha=float(call.layer.negative_slope)))


def _elu(call: Call) -> Tensor:
    return call.like_input(call.node("Elu", call.only.value, alpha=float(call.layer.alpha)))


def _prelu(call: Call) -> Tensor:
    x = call.native() if call.only.layout is Layout.FLATTENED_CHANNELS_FIRST else call.only
    alpha = floats_of(call.layer.alpha)
    slope = call.constant("alpha", constant_in_order_of(x, alpha.reshape(1, *alpha.shape)))
    return replace(x, value=call.node("PRelu", x.value, slope))


def _softmax(call: Call) -> Tensor:
    axis = call.layer.axis
    if not isinstance(axis, int):
        raise call.unsupported(f"softmax over several axes ({axis})")
    return call.like_input(call.node("Softmax", call.only.value, axis=call.only.axis(axis)))


LAYERS: dict[str, Rule] = {
    "Activation": _activation,
    "ReLU": _relu,
    "LeakyReLU": _leaky_relu,
    "ELU": _elu,
    "PReLU": _prelu,
    "Softmax": _softmax,
}
