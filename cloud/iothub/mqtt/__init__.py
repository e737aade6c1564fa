"""The device side of the hub: MQTT 3.1.1 over TLS.

packets.py      bytes ↔ packets
sessions.py     the CONNECT of a client, and the requests that it publishes
connection.py   one client: packets, acknowledgements, limits of time and memory
listener.py     TCP and TLS
websocket.py    websockets, on the port of HTTPS
"""
