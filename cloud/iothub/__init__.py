"""An endpoint that is compatible with Azure IoT Hub, for the development of devices without Azure: `edgewright iothub up`.

    devices/   identities, twins, credentials
    links.py   connected clients and their sessions       queues.py   messages to devices
    methods.py direct methods                             hub.py      all of these together
    topics.py  the topics on MQTT                         refusal.py  errors with IoT Hub's codes
    store.py   the database                               state.py    the state directory
    mqtt/      the side of devices                        http/       the side of services
    server.py  the process                                client.py, cli.py   the commands

The interfaces are those that the public client libraries use (docs/adr/0017). Start reading at `hub.py`.
"""
