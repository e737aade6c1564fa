"""The connection to the cloud over MQTT, or over HTTPS long-polls where MQTT is blocked.

connection.py holds the reconnect loop; transport.py defines the protocol that mqtt.py and https.py implement.
"""
