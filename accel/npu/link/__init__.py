"""Speaking with a board over a serial line (docs/spec/npu.md, N100-N119).

    discovery      which serial ports to ask
    serial_line    whole frames out and in
    frames         what a request and its answer look like
    window         which requests are under way, and which have to be sent again
    protocol       hello, upload, start, wait: what a host says to a board

It carries words, whatever they mean; the machine that they make is `machines/board.py`.
"""
