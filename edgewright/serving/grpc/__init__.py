"""The scoring server over gRPC, beside HTTP: the same model, keys, limits and errors.

server                    the listening server; read it first
calls                     what every call goes through: key, size, errors
open_inference            `inference.GRPCInferenceService` of the Open Inference Protocol
tensorflow_serving        `tensorflow.serving.PredictionService`
message_types             message classes from listings; `*_messages` are the listings

Needs the extra `serve-grpc`.
"""
