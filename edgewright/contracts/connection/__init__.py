"""How a client or a device reaches a cloud: its context, its enrolment token, the topics of MQTT, and errors over HTTP."""
