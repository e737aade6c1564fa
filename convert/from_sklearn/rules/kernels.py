"""Rules for models of a kernel and its training samples: Gaussian processes, kernel ridge, Nystroem.

Their sums cancel, so they are computed in float64.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from convert.from_sklearn.network import Network, Table

_Array = npt.NDArray[np.float64]


def _gaussian_values(network: Network, process: Any, table: Table) -> ir.Value:
    similarity = _process_kernel(network, process.kernel_, _wide(network, table), np.asarray(process.X_train_, np.float64))
    mean = network.node("MatMul", similarity, _constant(network, np.reshape(process.alpha_, (len(process.alpha_), -1))))
    scaled = network.node("Mul", mean, _constant(network, process._y_train_std))
    return _narrow(network, network.node("Add", scaled, _constant(network, process._y_train_mean)))


def _kernel_ridge(network: Network, ridge: Any, table: Table) -> ir.Value:
    similarity = _pairwise(network, ridge, _wide(network, table), np.asarray(ridge.X_fit_, np.float64))
    coefficients = _constant(network, np.reshape(ridge.dual_coef_, (len(ridge.dual_coef_), -1)))
    return _narrow(network, network.node("MatMul", similarity, coefficients))


def _nystroem(network: Network, nystroem: Any, table: Table) -> Table:
    similarity = _pairwise(network, nystroem, _wide(network, table), np.asarray(nystroem.components_, np.float64))
    return Table(_narrow(network, network.node("MatMul", similarity, _constant(network, nystroem.normalization_.T))))


def _gaussian_probabilities(network: Network, classifier: Any, table: Table) -> ir.Value:
    """Return the mean of a sigmoid over the latent distribution, which scikit-learn approximates by five error functions."""
    inner = classifier.base_estimator_
    if hasattr(inner, "estimators_"):
        if classifier.multi_class == "one_vs_one":
            network.reject("GaussianProcessClassifier of pairs has no probabilities: train it with multi_class='one_vs_rest'")
        columns = [network.columns(_of_two_classes(network, part, table), [1]) for part in inner.estimators_]
        scores = network.joined(columns)
        total = network.node("ReduceSum", scores, network.integers([1]), keepdims=1)
        return network.node("Div", scores, total)
    return _of_two_classes(network, inner, table)


def _of_two_classes(network: Network, part: Any, table: Table) -> ir.Value:
    from sklearn.gaussian_process._gpc import COEFS, LAMBDAS

    similarity = _process_kernel(network, part.kernel_, rows := _wide(network, table), np.asarray(part.X_train_, np.float64))
    mean = network.node("MatMul", similarity, _constant(network, np.reshape(part.y_train_ - part.pi_, (-1, 1))))
    solved = np.linalg.solve(part.L_, np.diag(part.W_sr_)).T
    explained = network.node(
        "ReduceSumSquare", network.node("MatMul", similarity, _constant(network, solved)), network.integers([1]), keepdims=1
    )
    variance = network.node("Sub", _diagonal(network, part.kernel_, rows), explained)
    alpha = network.node("Div", _constant(network, 0.5), variance)
    gamma = network.node("Mul", mean, _constant(network, LAMBDAS.reshape(1, -1)))
    ratio = network.node("Div", alpha, network.node("Add", alpha, _constant(network, LAMBDAS.reshape(1, -1) ** 2)))
    argument = network.node("Mul", gamma, network.node("Sqrt", ratio))
    # sqrt(pi / alpha) / (2 sqrt(2 pi variance)) is 1/2, because alpha is 1 / (2 variance)
    total = network.node("MatMul", _error_function(network, argument), _constant(network, 0.5 * COEFS.reshape(-1, 1)))
    second = _narrow(network, network.node("Add", total, _constant(network, 0.5 * float(COEFS.sum()))))
    return network.joined([network.node("Sub", network.floats(1.0), second), second])


def _error_function(network: Network, value: ir.Value) -> ir.Value:
    """Return erf in float64, which onnxruntime has in float32 only, by a quadrature of its integral.

    The five functions are multiplied by up to 3500 before they cancel, so float32 would leave an error of 2e-4.
    """
    nodes, weights = np.polynomial.legendre.leggauss(40)
    clipped = network.node("Max", network.node("Min", value, _constant(network, 6.0)), _constant(network, -6.0))
    column = network.node("Unsqueeze", clipped, network.integers([2]))
    scaled = network.node("Mul", column, _constant(network, (nodes + 1) / 2))
    heights = network.node("Exp", network.node("Neg", network.node("Mul", scaled, scaled)))
    area = network.node("MatMul", heights, _constant(network, weights.reshape(-1, 1) / np.sqrt(np.pi)))
    return network.node("Mul", clipped, network.node("Squeeze", area, network.integers([2])))


def _wide(network: Network, table: Table) -> ir.Value:
    return network.node("Cast", network.numbers(table), to=int(ir.DataType.DOUBLE))


def _narrow(network: Network, value: ir.Value) -> ir.Value:
    return network.node("Cast", value, to=int(ir.DataType.FLOAT))


def _constant(network: Network, values: npt.ArrayLike) -> ir.Value:
    return network.constant(np.asarray(values, np.float64))


def _square_distances(network: Network, rows: ir.Value, samples: _Array) -> ir.Value:
    """Return the squared distances from each row to each sample, [N, samples]."""
    own = network.node("ReduceSumSquare", rows, network.integers([1]), keepdims=1)
    products = network.node("MatMul", rows, _constant(network, -2.0 * samples.T))
    others = _constant(network, (samples**2).sum(axis=1).reshape(1, -1))
    return network.node("Max", network.node("Add", network.node("Add", own, products), others), _constant(network, 0.0))


def _pairwise(network: Network, estimator: Any, rows: ir.Value, samples: _Array) -> ir.Value:
    """Return the kernel of KernelRidge and Nystroem: linear, rbf, polynomial or sigmoid."""
    kernel = estimator.kernel
    if kernel == "linear":
        return network.node("MatMul", rows, _constant(network, samples.T))
    if kernel not in ("rbf", "poly", "polynomial", "sigmoid"):
        network.reject(f"{type(estimator).__name__} with kernel {kernel!r} has no counterpart in ONNX: use 'rbf' or 'poly'")
    gamma = 1.0 / samples.shape[1] if estimator.gamma is None else float(estimator.gamma)
    if kernel == "rbf":
        return network.node("Exp", _times(network, _square_distances(network, rows, samples), -gamma))
    offset = 1.0 if estimator.coef0 is None else float(estimator.coef0)
    products = network.node("MatMul", rows, _constant(network, gamma * samples.T))
    moved = network.node("Add", products, _constant(network, offset))
    if kernel == "sigmoid":
        return _in_floats(network, "Tanh", moved)
    return network.node("Pow", moved, _constant(network, 3.0 if estimator.degree is None else float(estimator.degree)))


def _in_floats(network: Network, operator: str, value: ir.Value) -> ir.Value:
    return network.node("Cast", network.node(operator, _narrow(network, value)), to=int(ir.DataType.DOUBLE))


def _times(network: Network, value: ir.Value, factor: float) -> ir.Value:
    return network.node("Mul", value, _constant(network, factor))


def _process_kernel(network: Network, kernel: Any, rows: ir.Value, samples: _Array) -> ir.Value:
    """Return the covariance of rows and training samples, [N, samples]."""
    name = type(kernel).__name__
    if name in ("Sum", "Product"):
        parts = [_process_kernel(network, part, rows, samples) for part in (kernel.k1, kernel.k2)]
        return network.node("Add" if name == "Sum" else "Mul", *parts)
    if name == "Exponentiation":
        inner = _process_kernel(network, kernel.kernel, rows, samples)
        return network.node("Pow", inner, _constant(network, float(kernel.exponent)))
    if name not in _COVARIANCES:
        network.reject(f"a Gaussian process with kernel {name} has no counterpart in ONNX: use RBF, Matern or RationalQuadratic")
    return _COVARIANCES[name](network, kernel, rows, samples)


def _diagonal(network: Network, kernel: Any, rows: ir.Value) -> ir.Value:
    """Return the variance of each row, [N, 1]; all kernels but DotProduct have a constant one."""
    name = type(kernel).__name__
    if name in ("Sum", "Product"):
        parts = [_diagonal(network, part, rows) for part in (kernel.k1, kernel.k2)]
        return network.node("Add" if name == "Sum" else "Mul", *parts)
    if name == "Exponentiation":
        return network.node("Pow", _diagonal(network, kernel.kernel, rows), _constant(network, float(kernel.exponent)))
    if name == "DotProduct":
        squares = network.node("ReduceSumSquare", rows, network.integers([1]), keepdims=1)
        return network.node("Add", squares, _constant(network, kernel.sigma_0**2))
    return _constant(network, float(kernel.diag(np.zeros((1, 1)))[0]))


def _rbf(network: Network, kernel: Any, rows: ir.Value, samples: _Array) -> ir.Value:
    return network.node("Exp", _times(network, _scaled_distances(network, kernel, rows, samples), -0.5))


def _scaled_distances(network: Network, kernel: Any, rows: ir.Value, samples: _Array) -> ir.Value:
    length = np.asarray(kernel.length_scale, np.float64)
    return _square_distances(network, network.node("Div", rows, _constant(network, length)), samples / length)


def _matern(network: Network, kernel: Any, rows: ir.Value, samples: _Array) -> ir.Value:
    if kernel.nu not in (0.5, 1.5, 2.5):
        network.reject(f"a Matern kernel must have nu 0.5, 1.5 or 2.5, but it has {kernel.nu}: train it with one of them")
    squares = _scaled_distances(network, kernel, rows, samples)
    scaled = _times(network, network.node("Sqrt", squares), {0.5: 1.0, 1.5: 3**0.5, 2.5: 5**0.5}[kernel.nu])
    decay = network.node("Exp", network.node("Neg", scaled))
    if kernel.nu == 0.5:
        return decay
    polynomial = network.node("Add", scaled, _constant(network, 1.0))
    if kernel.nu == 2.5:
        polynomial = network.node("Add", polynomial, _times(network, squares, 5.0 / 3.0))
    return network.node("Mul", polynomial, decay)


def _rational(network: Network, kernel: Any, rows: ir.Value, samples: _Array) -> ir.Value:
    squares = _square_distances(network, rows, samples)
    base = network.node(
        "Add", _times(network, squares, 1.0 / (2 * kernel.alpha * kernel.length_scale**2)), _constant(network, 1.0)
    )
    return network.node("Pow", base, _constant(network, -float(kernel.alpha)))


def _dot(network: Network, kernel: Any, rows: ir.Value, samples: _Array) -> ir.Value:
    return network.node("Add", network.node("MatMul", rows, _constant(network, samples.T)), _constant(network, kernel.sigma_0**2))


def _level(network: Network, kernel: Any, _rows: ir.Value, samples: _Array) -> ir.Value:
    return _constant(network, np.full((1, len(samples)), kernel.constant_value))


def _noise(network: Network, _kernel: Any, _rows: ir.Value, samples: _Array) -> ir.Value:
    return _constant(network, np.zeros((1, len(samples))))  # noise of other samples is independent


_COVARIANCES: dict[str, Callable[[Network, Any, ir.Value, _Array], ir.Value]] = {
    "RBF": _rbf,
    "Matern": _matern,
    "RationalQuadratic": _rational,
    "DotProduct": _dot,
    "ConstantKernel": _level,
    "WhiteKernel": _noise,
}

VALUES = {"GaussianProcessRegressor": _gaussian_values, "KernelRidge": _kernel_ridge}
PROBABILITIES = {"GaussianProcessClassifier": _gaussian_probabilities}
TRANSFORMED = {"Nystroem": _nystroem}
