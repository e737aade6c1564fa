"""The protocol of a board on a serial line (docs/spec/npu.md, N100-N119).

    discovery      the serial ports to probe
    serial_line    sends and receives whole frames
    frames         encoding of requests and responses
    window         the requests in flight, and those to send again
    protocol       hello, upload, start, wait: the requests of a host

The link transfers words without interpreting them; `machines/board.py` builds the NPU on top.
"""
