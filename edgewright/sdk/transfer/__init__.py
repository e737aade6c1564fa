"""Transfers of blobs between this machine and the registry of a cloud; they continue after an interruption.

`uploads.py` sends a blob in chunks, `downloads.py` receives one in ranges. A request whose connection was lost is repeated a few
times, from the last byte that arrived. After the end of the process, the next one continues: `kept.py` has the files that it
needs, in the cache folder of the user.
"""
