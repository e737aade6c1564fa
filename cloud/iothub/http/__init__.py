"""The service side of the hub over HTTPS, in the form of IoT Hub's REST API.

requests.py        authentication, bodies, answers and errors of all routes
service.py         identities, twins, methods, messages, telemetry
configurations.py  queries, configurations and manifests
provisioning.py    enrolments and registrations
device.py          the routes of devices: file uploads
"""
