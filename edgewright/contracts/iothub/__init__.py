"""IoT Hub as clients and servers share it: topics, tokens, connection strings, and the messages in twins.

Source: "Communicate with an IoT hub using the MQTT protocol" (learn.microsoft.com).
"""
