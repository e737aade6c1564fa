"""Contracts of a connection to a cloud: client context, enrolment token, MQTT topics, and errors over HTTP."""
