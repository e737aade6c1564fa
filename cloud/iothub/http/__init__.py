"""The service side of the hub over HTTPS, in the form of IoT Hub's REST API.

requests.py   authentication, bodies, answers and errors of all routes
service.py    the routes
"""
