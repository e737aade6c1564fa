"""Messages of `inference.GRPCInferenceService`.

Names and numbers of the fields: https://github.com/kserve/open-inference-protocol (open_inference_grpc.proto); configuration,
statistics and repository index: the extensions of triton-inference-server (model_config.proto, grpc_service.proto). Only fields
that this server reads or writes are listed; protobuf skips the others.
"""

from __future__ import annotations

from google.protobuf.descriptor_pool import DescriptorPool

from edgewright.serving.grpc.message_types import message_classes

PACKAGE = "inference"
SERVICE = "inference.GRPCInferenceService"

_LISTING = """
ServerLiveRequest

ServerLiveResponse
1 live bool

ServerReadyRequest

ServerReadyResponse
1 ready bool

ModelReadyRequest
1 name string
2 version string

ModelReadyResponse
1 ready bool

ServerMetadataRequest

ServerMetadataResponse
1 name string
2 version string
3 extensions repeated string

ModelMetadataRequest
1 name string
2 version string

TensorMetadata
1 name string
2 datatype string
3 shape repeated int64

ModelMetadataResponse
1 name string
2 versions repeated string
3 platform string
4 inputs repeated TensorMetadata
5 outputs repeated TensorMetadata

InferParameter
1 bool_param oneof bool
2 int64_param oneof int64
3 string_param oneof string
4 double_param oneof double
5 uint64_param oneof uint64

InferTensorContents
1 bool_contents repeated bool
2 int_contents repeated int32
3 int64_contents repeated int64
4 uint_contents repeated uint32
5 uint64_contents repeated uint64
6 fp32_contents repeated float
7 fp64_contents repeated double
8 bytes_contents repeated bytes

InferInputTensor
1 name string
2 datatype string
3 shape repeated int64
4 parameters map string InferParameter
5 contents InferTensorContents

InferRequestedOutputTensor
1 name string
2 parameters map string InferParameter

ModelInferRequest
1 model_name string
2 model_version string
3 id string
4 parameters map string InferParameter
5 inputs repeated InferInputTensor
6 outputs repeated InferRequestedOutputTensor
7 raw_input_contents repeated bytes

InferOutputTensor
1 name string
2 datatype string
3 shape repeated int64

ModelInferResponse
1 model_name string
2 model_version string
3 id string
5 outputs repeated InferOutputTensor
6 raw_output_contents repeated bytes

ModelStreamInferResponse
1 error_message string
2 infer_response ModelInferResponse

ModelConfigRequest
1 name string
2 version string

ModelTensorConfig
1 name string
2 data_type int32
4 dims repeated int64

ModelOutputConfig
1 name string
2 data_type int32
3 dims repeated int64

ModelInstanceGroup
1 name string
2 count int32
4 kind int32

ModelDynamicBatching
2 max_queue_delay_microseconds uint64

SpecificVersions
1 versions repeated int64

ModelVersionPolicy
3 specific SpecificVersions

ModelConfig
1 name string
2 platform string
3 version_policy ModelVersionPolicy
4 max_batch_size int32
5 input repeated ModelTensorConfig
6 output repeated ModelOutputConfig
7 instance_group repeated ModelInstanceGroup
11 dynamic_batching ModelDynamicBatching
17 backend string

ModelConfigResponse
1 config ModelConfig

ModelStatisticsRequest
1 name string
2 version string

StatisticDuration
1 count uint64
2 ns uint64

InferStatistics
1 success StatisticDuration
2 fail StatisticDuration
3 queue StatisticDuration
4 compute_input StatisticDuration
5 compute_infer StatisticDuration
6 compute_output StatisticDuration
7 cache_hit StatisticDuration
8 cache_miss StatisticDuration

InferBatchStatistics
1 batch_size uint64
2 compute_input StatisticDuration
3 compute_infer StatisticDuration
4 compute_output StatisticDuration

ModelStatistics
1 name string
2 version string
3 last_inference uint64
4 inference_count uint64
5 execution_count uint64
6 inference_stats InferStatistics
7 batch_stats repeated InferBatchStatistics

ModelStatisticsResponse
1 model_stats repeated ModelStatistics

RepositoryIndexRequest
1 repository_name string
2 ready bool

ModelIndex
1 name string
2 version string
3 state string
4 reason string

RepositoryIndexResponse
1 models repeated ModelIndex
"""

MESSAGES = message_classes(DescriptorPool(), PACKAGE, _LISTING)
"""Message classes by name."""
