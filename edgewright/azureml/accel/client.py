"""The client of a scoring service over gRPC: `tensorflow.serving.PredictionService/Predict`.

Every server with that call answers it: `edgewright serve … --grpc-port`, an endpoint with `--grpc-port`, TensorFlow Serving.

    score_file            one image file, which the server decodes and prepares
    score_numpy_arrays    arrays by the names of the tensors
    score_tensors         the same with bytes, shape and the number of the type

A call is tried again while the server cannot be reached. If it stays away, the client connects once without gRPC to find the
reason: nothing listens, or only one side uses TLS.
"""

from __future__ import annotations

import contextlib
import os
import socket
import ssl
import threading
import time
from collections.abc import Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any, Self

import grpc
import numpy as np
import numpy.typing as npt

from edgewright.errors import (
    BadInputError,
    DeniedError,
    EdgewrightError,
    NotFoundError,
    OperationError,
    SamplesError,
    UnreachableError,
)
from edgewright.sdk import Webservice
from edgewright.serving.grpc.tensorflow_messages import MESSAGES, SERVICE, TENSOR_MESSAGES
from edgewright.serving.grpc.tensorflow_tensors import DTYPES, to_array, to_proto

Array = npt.NDArray[Any]
Result = Array | list[Array]

ROOTS_VARIABLE = "GRPC_DEFAULT_SSL_ROOTS_FILE_PATH"
"""Variable of gRPC with the file of the trusted authorities (PEM)."""

_ROUTE = "x-ms-aml-grpc-service-route"
_ATTEMPTS = 5
_AWAY = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED)
"""Codes of a server that starts or stops: one that stops cancels calls that no handler has (github.com/grpc/grpc/issues/41785).

This client cancels no call itself, and a repeated request changes nothing.
"""
_FIRST_DELAY_S = 0.25
_PROBE_TIMEOUT_S = 3.0
_ERRORS: dict[grpc.StatusCode, type[EdgewrightError]] = {
    grpc.StatusCode.INVALID_ARGUMENT: SamplesError,
    grpc.StatusCode.NOT_FOUND: NotFoundError,
    grpc.StatusCode.UNAUTHENTICATED: DeniedError,
    grpc.StatusCode.PERMISSION_DENIED: DeniedError,
}
_OPTIONS = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]


class PredictionClient:
    """A client of one service; it may be used in a `with` block, which closes its connection."""

    def __init__(
        self,
        address: str,
        port: int | None = None,
        use_ssl: bool = False,
        access_token: str = "",
        service_name: str = "",
        channel_shutdown_timeout: timedelta = timedelta(minutes=2),
        *,
        ca_file: str | os.PathLike[str] | None = None,
    ) -> None:
        """Prepare a client; it connects with the first call.

        Args:
            address: host name or IP address of the service.
            port: its gRPC port; default: 443 with TLS, 80 without.
            use_ssl: True if the service uses TLS.
            access_token: a key or token of the service.
            service_name: sent as a route, for a gateway in front of several services.
            channel_shutdown_timeout: a connection that is older than this is opened again.
            ca_file: authorities that signed the certificate of the service (PEM); default: those of gRPC.

        Raises:
            BadInputError: the address is a URL or has a path, the port does not exist, or `ca_file` cannot be read.
        """
        self._host = _checked_host(address)
        self._port = _checked_port(port, use_ssl=use_ssl)
        self._uses_tls = use_ssl
        self._roots = None if ca_file is None else _read(Path(ca_file))
        self._metadata = [(_ROUTE, f"/api/v1/service/{service_name}")] if service_name else []
        self._metadata += [("authorization", f"Bearer {access_token}")] if access_token else []
        self._lifetime_s = channel_shutdown_timeout.total_seconds()
        self._opening = threading.Lock()
        self._channel: grpc.Channel | None = None
        self._opened_s = 0.0

    def score_file(
        self,
        path: str | os.PathLike[str],
        input_name: str = "images",
        outputs: str | Sequence[str] | None = None,
        timeout: float = 10.0,
    ) -> Result:
        """Score one image file; the result has no batch axis.

        Args:
            path: PNG, JPEG or another format that the server's Pillow reads.
            input_name: the input, with or without `:0`.
            outputs: as in `score_tensors`.
            timeout: limit of one attempt, in seconds.

        Raises:
            NotFoundError: there is no such file.
            SamplesError: the model takes no image, or has no such tensor.
        """
        image = np.array([_read(Path(path))], object)
        scored = self._predict({input_name: to_proto(image)}, outputs, timeout)
        return [each[0] for each in scored] if isinstance(scored, list) else scored[0]

    def score_numpy_arrays(
        self, input_map: Mapping[str, npt.ArrayLike], outputs: str | Sequence[str] | None = None, timeout: float = 10.0
    ) -> Result:
        """Score arrays; see `score_tensors`. The type of an array is sent as it is, so images should be float32.

        Raises:
            SamplesError: an array has a type that the protocol lacks, or does not fit the model.
        """
        tensors = {name: _proto_of(np.asarray(array), name) for name, array in input_map.items()}
        return self._predict(tensors, outputs, timeout)

    def score_tensors(
        self,
        input_map: Mapping[str, tuple[bytes, Sequence[int], int]],
        outputs: str | Sequence[str] | None = None,
        timeout: float = 10.0,
    ) -> Result:
        """Score tensors of bytes.

        Args:
            input_map: for each input: the values row by row and little-endian, the shape, and the number of the type in
                TensorFlow's `types.proto`. Text (7) is one value.
            outputs: one output, or several; default: all of the model.
            timeout: limit of one attempt, in seconds.

        Returns:
            The array for the name of one output, or for a model with one output; else a list of arrays, in the order of
            `outputs`, or by name.

        Raises:
            SamplesError: a name, shape or type is not that of the model.
            DeniedError: the key is missing or wrong.
            UnreachableError: the service does not answer.
            OperationError: it failed, or did not answer in time.
        """
        tensors = {name: _tensor_of(name, *parts) for name, parts in input_map.items()}
        return self._predict(tensors, outputs, timeout)

    def close(self) -> None:
        """Close the connection; the next call opens another one."""
        with self._opening:
            channel, self._channel = self._channel, None
        if channel is not None:
            channel.close()

    def __enter__(self) -> Self:
        """Return the client."""
        return self

    def __exit__(self, *_error: object) -> None:
        """Close the connection."""
        self.close()

    def _predict(self, tensors: Mapping[str, Any], outputs: str | Sequence[str] | None, timeout_s: float) -> Result:
        request = MESSAGES["PredictRequest"]()
        for name, tensor in tensors.items():
            if not isinstance(name, str):
                raise SamplesError(f"the name of an input must be text, not {name!r}")
            request.inputs[name].CopyFrom(tensor)
        names = [outputs] if isinstance(outputs, str) else list(outputs or ())
        request.output_filter.extend(names)
        response = MESSAGES["PredictResponse"].FromString(self._call(request.SerializeToString(), timeout_s))
        missing = [name for name in names if name not in response.outputs]
        if missing:
            raise SamplesError(f"output {missing[0]} must be in the answer, but it has {', '.join(sorted(response.outputs))}")
        arrays = [to_array(response.outputs[name], name) for name in names or sorted(response.outputs)]
        return arrays[0] if isinstance(outputs, str) or (outputs is None and len(arrays) == 1) else arrays

    def _call(self, request: bytes, timeout_s: float) -> bytes:
        for attempt in range(_ATTEMPTS):
            channel = self._opened()
            try:
                answer: bytes = channel.unary_unary(f"/{SERVICE}/Predict")(request, timeout=timeout_s, metadata=self._metadata)
                return answer
            except grpc.RpcError as error:
                if error.code() in _AWAY:
                    self._forget(channel)
                if error.code() not in _AWAY or attempt == _ATTEMPTS - 1:
                    raise self._error_of(error, timeout_s) from None
                mismatch = self._mismatch()
                if mismatch:
                    raise BadInputError(mismatch) from None
                time.sleep(_FIRST_DELAY_S * 2**attempt)
        raise AssertionError("the last attempt returns or raises")

    def _opened(self) -> grpc.Channel:
        """Return the connection; one that is too old is left to the calls of other threads that use it."""
        with self._opening:
            if self._channel is None or time.monotonic() - self._opened_s > self._lifetime_s:
                self._channel, self._opened_s = self._new_channel(), time.monotonic()
            return self._channel

    def _new_channel(self) -> grpc.Channel:
        target = f"[{self._host}]:{self._port}" if ":" in self._host else f"{self._host}:{self._port}"
        if self._uses_tls:
            return grpc.secure_channel(target, grpc.ssl_channel_credentials(self._roots), _OPTIONS)
        return grpc.insecure_channel(target, _OPTIONS)

    def _forget(self, channel: grpc.Channel) -> None:
        """Open another connection for the next call, without the waits of this one; a close would end calls of other threads."""
        with self._opening:
            if self._channel is channel:
                self._channel = None

    def _error_of(self, error: Any, timeout_s: float) -> EdgewrightError:
        text = f"the service at {self._host}:{self._port}"
        code, details = error.code(), " ".join(str(error.details()).split())
        if code in _AWAY:
            return UnreachableError(
                f"{text} must answer gRPC, but it does not: {details[:200]}; start it, or correct the address"
            )
        if code is grpc.StatusCode.DEADLINE_EXCEEDED:
            return OperationError(f"{text} must answer within {timeout_s:g} s, but it does not: raise timeout")
        if code is grpc.StatusCode.UNIMPLEMENTED:
            return BadInputError(f"{text} must answer {SERVICE}/Predict, but it has no such call: take another port")
        return _ERRORS.get(code, OperationError)(details)

    def _mismatch(self) -> str:
        """Return the message if only one side uses TLS, or the certificate is refused; empty if that is not the reason."""
        text = f"the service at {self._host}:{self._port}"
        speaks_tls = _speaks_tls(self._host, self._port, None)
        if speaks_tls is True and not self._uses_tls:
            return f"{text} uses TLS, but this client does not: set use_ssl=True"
        if speaks_tls is False and self._uses_tls:
            return f"{text} must use TLS, but it does not: set use_ssl=False"
        if speaks_tls is True and _speaks_tls(self._host, self._port, self._trusting()) is False:
            return (
                f"{text} must have a certificate of a trusted authority for {self._host}, but it has not: "
                f"give the authority's file as ca_file, or in {ROOTS_VARIABLE}"
            )
        return ""

    def _trusting(self) -> ssl.SSLContext:
        roots = self._roots
        path = os.environ.get(ROOTS_VARIABLE)
        if roots is None and path:
            roots = _read(Path(path))
        context = ssl.create_default_context()
        if roots is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            with contextlib.suppress(ssl.SSLError, ValueError):
                context.load_verify_locations(cadata=roots.decode("utf-8", "replace"))
        return context


def client_from_service(service: Webservice) -> PredictionClient:
    """Return a client of a service that answers gRPC, with its address and key.

    Raises:
        BadInputError: it does not answer gRPC.
    """
    address = service.grpc_address
    if not address:
        raise BadInputError(
            f"service {service.name} must answer gRPC, but it does not: "
            f"run 'edgewright endpoints update {service.name} --grpc-port 0'"
        )
    host, _, port = address.rpartition(":")
    key = service.get_keys()[0] if service.auth_enabled or service.token_auth_enabled else ""
    return PredictionClient(host, int(port), access_token=key, service_name=service.name)


def _tensor_of(name: str, values: bytes, shape: Sequence[int], dtype: int) -> Any:
    if dtype not in DTYPES.values():
        raise SamplesError(
            f"input {name}: the type must be a number of TensorFlow's types.proto, as 1 for float32, not {dtype!r}"
        )
    if not isinstance(values, bytes):
        raise SamplesError(f"input {name}: the values must be bytes, not {type(values).__name__}: use score_numpy_arrays")
    tensor = TENSOR_MESSAGES["TensorProto"](dtype=dtype)
    for size in shape:
        if isinstance(size, bool) or not isinstance(size, int | np.integer) or size < 0:
            raise SamplesError(f"input {name}: the shape must be whole numbers of 0 or more, not {list(shape)}")
        tensor.tensor_shape.dim.add(size=int(size))
    if dtype == DTYPES["object"]:
        tensor.string_val.append(values)
    else:
        tensor.tensor_content = values
    return tensor


def _proto_of(array: Array, name: str) -> Any:
    if array.dtype.kind in "US":
        array = array.astype(object)
    if array.dtype.name not in DTYPES:
        raise SamplesError(f"input {name} must have one of the types {', '.join(DTYPES)}, not {array.dtype}: convert it")
    return to_proto(array)


def _checked_host(address: str) -> str:
    host = address.strip().removeprefix("[").removesuffix("]")
    is_name = host.count(":") != 1  # two colons and more are an IPv6 address
    if not host or "/" in host or not is_name:
        raise BadInputError(
            f"address must be a host name or an IP address without scheme, port and path, not {address[:100]!r}: "
            "use client_from_service(service), or give the port as port="
        )
    return host


def _checked_port(port: int | None, *, use_ssl: bool) -> int:
    if port is None:
        return 443 if use_ssl else 80
    if isinstance(port, bool) or not isinstance(port, int) or not 1 <= port <= 65535:
        raise BadInputError(f"port must be a whole number from 1 to 65535, not {port!r}")
    return port


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise NotFoundError(f"{path} must be a file that can be read: {error.strerror}") from error


def _speaks_tls(host: str, port: int, context: ssl.SSLContext | None) -> bool | None:
    """Return True if a TLS handshake succeeds, False if the answer is not TLS or its certificate is refused.

    None: nothing listens, or the connection ended without an answer, as when a server restarts. Without a context any
    certificate passes.
    """
    if context is None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_alpn_protocols(["h2"])
    try:
        with (
            socket.create_connection((host, port), timeout=_PROBE_TIMEOUT_S) as plain,
            context.wrap_socket(plain, server_hostname=host),
        ):
            return True
    except (ssl.SSLEOFError, ssl.SSLZeroReturnError, ssl.SSLSyscallError):
        return None
    except ssl.SSLError:
        return False
    except OSError:
        return None
