"""The connection to the cloud: MQTT, HTTPS long-poll where MQTT cannot pass, and the choice between them.

connection.py holds the reconnect loop; transport.py is the protocol that mqtt.py and https.py implement.
"""
