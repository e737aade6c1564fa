"""The floor: asyncio, the JSON decoder and the model, without checks of any kind: `raw_asyncio.py MODEL PORT`."""

from __future__ import annotations

import asyncio
import sys
from typing import Any

import msgspec
import numpy as np
import onnxruntime
import orjson
import uvloop

options = onnxruntime.SessionOptions()
options.intra_op_num_threads = 1
session = onnxruntime.InferenceSession(sys.argv[1], options, providers=["CPUExecutionProvider"])


class Body(msgspec.Struct):
    data: list[list[float]]


decode = msgspec.json.Decoder(Body).decode


class Connection(asyncio.Protocol):
    received = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport: Any = transport  # uvloop's transports are no subclasses of asyncio.Transport

    def data_received(self, data: bytes) -> None:
        self.received += data
        head, end, rest = self.received.partition(b"\r\n\r\n")
        if not end:
            return
        place = head.lower().find(b"content-length:")
        size = int(head[place + 15 :].split(b"\r\n", 1)[0]) if place >= 0 else 0
        if len(rest) < size:
            return
        body, self.received = rest[:size], rest[size:]
        (scores,) = session.run(None, {"x": np.asarray(decode(body).data, dtype=np.float32)})
        answer = orjson.dumps({"result": scores}, option=orjson.OPT_SERIALIZE_NUMPY)
        head = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(answer)
        self.transport.write(head + answer)


async def main() -> None:
    server = await asyncio.get_running_loop().create_server(Connection, "127.0.0.1", int(sys.argv[2]))
    await server.serve_forever()


uvloop.run(main())
