"""Messages of `tensorflow.serving.PredictionService` and of gRPC's health check.

Names and numbers of the fields: tensor.proto, tensor_shape.proto, types.proto and meta_graph.proto of TensorFlow
(tensorflow/core/framework, tensorflow/core/protobuf); predict.proto, model.proto, get_model_metadata.proto and
prediction_service.proto of TensorFlow Serving (tensorflow_serving/apis); https://github.com/grpc/grpc/blob/master/doc/health-checking.md.
Only fields that this server reads or writes are listed; protobuf skips the others.
"""

from __future__ import annotations

from google.protobuf.descriptor_pool import DescriptorPool

from edgewright.serving.grpc.message_types import message_classes

SERVICE = "tensorflow.serving.PredictionService"
HEALTH_SERVICE = "grpc.health.v1.Health"

_TENSORS = """
Dimension
1 size int64

TensorShapeProto
2 dim repeated Dimension
3 unknown_rank bool

TensorProto
1 dtype int32
2 tensor_shape TensorShapeProto
4 tensor_content bytes
5 float_val repeated float
6 double_val repeated double
7 int_val repeated int32
8 string_val repeated bytes
10 int64_val repeated int64
11 bool_val repeated bool
13 half_val repeated int32
16 uint32_val repeated uint32
17 uint64_val repeated uint64

TensorInfo
1 name string
2 dtype int32
3 tensor_shape TensorShapeProto

SignatureDef
1 inputs map string TensorInfo
2 outputs map string TensorInfo
3 method_name string
"""

_SERVING = """
Int64Value
1 value int64

ModelSpec
1 name string
2 version Int64Value
3 signature_name string

PredictRequest
1 model_spec ModelSpec
2 inputs map string tensorflow.TensorProto
3 output_filter repeated string

PredictResponse
1 outputs map string tensorflow.TensorProto
2 model_spec ModelSpec

SignatureDefMap
1 signature_def map string tensorflow.SignatureDef

Any
1 type_url string
2 value bytes

GetModelMetadataRequest
1 model_spec ModelSpec
2 metadata_field repeated string

GetModelMetadataResponse
1 model_spec ModelSpec
2 metadata map string Any
"""

_HEALTH = """
HealthCheckRequest
1 service string

HealthCheckResponse
1 status int32
"""

_POOL = DescriptorPool()
TENSOR_MESSAGES = message_classes(_POOL, "tensorflow", _TENSORS)
"""Message classes of the package `tensorflow` by name."""
MESSAGES = message_classes(_POOL, "tensorflow.serving", _SERVING, imports=("tensorflow",))
"""Message classes of the package `tensorflow.serving` by name."""
HEALTH_MESSAGES = message_classes(_POOL, "grpc.health.v1", _HEALTH)
"""Message classes of the package `grpc.health.v1` by name."""
