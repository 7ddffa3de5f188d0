"""Operators that only compute, of the runtimes whose model files are programs.

None of them opens a file, starts a process or has another effect than its result. The lists have what networks for
images need; a file with any other operator is loaded only if it is trusted.
"""

from __future__ import annotations

_TORCH = """
_convolution conv1d conv2d conv3d conv_transpose1d conv_transpose2d conv_transpose3d convolution
linear matmul mm bmm addmm baddbmm einsum scaled_dot_product_attention _native_multi_head_attention
max_pool1d max_pool2d max_pool3d avg_pool1d avg_pool2d avg_pool3d adaptive_avg_pool1d adaptive_avg_pool2d
adaptive_avg_pool3d adaptive_max_pool1d adaptive_max_pool2d adaptive_max_pool3d
batch_norm layer_norm group_norm instance_norm rms_norm linalg_vector_norm norm
dropout feature_dropout alpha_dropout feature_alpha_dropout
upsample_nearest1d upsample_nearest2d upsample_nearest3d upsample_linear1d upsample_bilinear2d upsample_bicubic2d
relu relu6 leaky_relu prelu rrelu elu celu selu gelu glu silu mish sigmoid log_sigmoid tanh hardtanh hardsigmoid
hardswish softplus softmax log_softmax softshrink hardshrink threshold
add sub rsub mul div floor_divide remainder fmod pow sqrt rsqrt square reciprocal exp log log2 log1p erf sin cos
atan abs neg sign floor ceil round trunc clamp clamp_min clamp_max maximum minimum cumsum
sum mean prod var std max min amax amin argmax argmin any all topk sort argsort nonzero nonzero_numpy
eq ne lt le gt ge isnan isinf isfinite logical_and logical_or logical_not logical_xor
bitwise_and bitwise_or bitwise_not __and__ __or__ __xor__
size numel dim view view_as reshape reshape_as flatten unflatten squeeze unsqueeze expand expand_as permute
transpose t movedim swapaxes channel_shuffle pixel_shuffle pixel_unshuffle unfold
cat stack chunk split split_with_sizes narrow slice select index index_select index_put gather where masked_fill unbind
pad constant_pad_nd reflection_pad2d replication_pad2d roll flip repeat repeat_interleave tile
broadcast_tensors meshgrid
contiguous clone copy detach item to type_as fill zero
zeros ones full arange linspace zeros_like ones_like full_like new_zeros new_ones new_full scalar_tensor device
"""
_TENSORFLOW = """
Abs Add AddN AddV2 ArgMax ArgMin AvgPool BatchMatMul BatchMatMulV2 BatchToSpaceND BiasAdd BroadcastTo Cast Ceil
ClipByValue CombinedNonMaxSuppression ConcatV2 Const Conv2D Conv2DBackpropInput Cumsum DepthToSpace
DepthwiseConv2dNative Div DivNoNan Einsum Elu Equal Erf Exp ExpandDims Fill Floor FloorDiv FloorMod FusedBatchNorm
FusedBatchNormV3 GatherNd GatherV2 Greater GreaterEqual Identity IdentityN LeakyRelu Less LessEqual Log LogicalAnd
LogicalNot LogicalOr MatMul Max MaxPool Maximum Mean Min Minimum MirrorPad Mul Neg NoOp NonMaxSuppressionV3
NonMaxSuppressionV4 NonMaxSuppressionV5 NotEqual OnesLike Pack Pad PadV2 PartitionedCall Placeholder Pow Prod Range
Rank RealDiv Reciprocal Relu Relu6 Reshape ResizeBilinear ResizeNearestNeighbor ReverseV2 Round Rsqrt Select SelectV2
Selu Shape Sigmoid Sign Size Slice Softmax Softplus Softsign SpaceToBatchND SpaceToDepth Split SplitV Sqrt Square
SquaredDifference Squeeze StatefulPartitionedCall StopGradient StridedSlice Sub Sum Tanh Tile TopKV2 Transpose Unpack
Where ZerosLike
"""
_PADDLE = """
abs add arange argmax assign_value_ batch_norm_ bilinear_interp cast clip concat conv2d conv2d_transpose
depthwise_conv2d divide elementwise_pow elu equal exp expand fetch data flatten floor floor_divide full full_int_array
full_like gather gelu greater_equal greater_than group_norm hardsigmoid hardswish hardtanh layer_norm leaky_relu
less_equal less_than log matmul max maximum mean min minimum mish multiply nearest_interp not_equal pad pad3d pool2d
pow relu relu6 remainder reshape rsqrt scale shape shape64 sigmoid silu slice softmax softplus split split_with_num
sqrt square squeeze stack strided_slice subtract sum swish tanh tile transpose unsqueeze where
"""
TORCH_OPERATORS = frozenset(_TORCH.split())  # each with its in-place variant, such as relu and relu_
TENSORFLOW_OPERATORS = frozenset(_TENSORFLOW.split())
PADDLE_OPERATORS = frozenset(_PADDLE.split())
