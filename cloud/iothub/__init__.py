"""An endpoint that is compatible with Azure IoT Hub, for the development of devices without Azure: `edgewright iothub up`.

    hub.py         the operations of one hub              server.py      the process with its listeners
    devices/       identities, twins, credentials         store.py       the database
    links.py       connected clients and their sessions   state.py       the state directory
    queues.py      messages to devices
    methods.py     direct methods                         refusal.py     errors with IoT Hub's codes
    provisioning/  devices that register themselves       mqtt/, http/   the sides of devices and of services
    deployments/   queries; configurations of many devices
    client.py      the client of the service API          cli.py, commands/

The interfaces are those that the public client libraries use (docs/adr/0020). Start reading at `hub.py`.
"""
