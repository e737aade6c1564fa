"""The service side of the hub over HTTPS, in the form of IoT Hub's REST API.

requests.py   authentication, bodies, answers and errors of all routes
service.py    the routes of services
configurations.py  queries, configurations and manifests
provisioning.py   the routes of the provisioning service
device.py     the routes of devices: file uploads
"""
