"""Smaller ONNX files: weights stored in int8 or float16, computed in float32.

int8: weights of MatMul, Gemm and Conv, one symmetric scale per output channel (DequantizeLinear). float16: all else that is
large (Cast). Left alone: small tensors, what codes and spectra are read from, where rounding would move codes, and a wave generator's
kernels, which OpenVINO would hold in float32 twice if they were stored in less.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Literal

import numpy as np

from gpa.errors import MissingExtra
from gpa.nets.net import COMPUTED, data_file

Precision = Literal["f32", "f16", "int8"]  # of stored weights
Computed = Literal["f32", "bf16"]  # what a net is run in
LARGE = 20_000_000  # bytes of a model whose weights stand beside it
SMALL = 2048  # elements; below, compression saves nothing
EXACT = ("quantizer.codebook", "quantizer.in_project", "codebook.", "fourier.")
KERNEL = ".kernel"  # of gpa.nets.weight_norm.multiplied_out


def write_compressed(traced: Path, path: Path, precision: Precision, strip: str = "", computed: Computed = "f32") -> Path:
    """A float32 ONNX file -> the file PATH, its weights stored in `precision`, to be run in `computed`; the first is deleted.

    The weights of a large net get a file of their own, which is mapped when the net runs: what OpenVINO reads of the ONNX file itself
    stays in memory beside what it makes of it. `strip` is taken off the front of initialiser names. Raises MissingExtra."""
    try:
        import onnx
    except ImportError as error:
        raise MissingExtra("onnx", "train") from error
    model, beside = onnx.load(str(traced)), data_file(path)
    traced.unlink()
    compress(model, precision, strip)
    if computed != "f32":
        onnx.helper.set_model_props(model, {COMPUTED: computed})
    beside.unlink(missing_ok=True)
    where: dict[str, Any] = {"save_as_external_data": True, "location": beside.name} if model.ByteSize() >= LARGE else {}
    onnx.save(model, str(traced), "protobuf", **where)
    os.replace(traced, path)
    return path


def compress(proto: Any, precision: Precision, strip: str = "") -> None:
    """Change a float32 ModelProto to the same with stored weights of `precision`; see `write_compressed`."""
    import onnx

    _rename(proto.graph, strip)
    if precision != "f32":
        matrices = _matrices(proto.graph) if precision == "int8" else {}
        nodes = []
        for tensor in list(proto.graph.initializer):
            value = onnx.numpy_helper.to_array(tensor)
            if value.dtype != np.float32 or value.size < SMALL or tensor.name.startswith(EXACT) or tensor.name.endswith(KERNEL):
                continue
            wide = f"{tensor.name}:f32"
            _rewire(proto.graph, tensor.name, wide)
            if tensor.name in matrices:
                axis = matrices[tensor.name]
                codes, scale = quantize(value, axis)
                tensor.CopyFrom(onnx.numpy_helper.from_array(codes, tensor.name))
                proto.graph.initializer.append(onnx.numpy_helper.from_array(scale, f"{tensor.name}:scale"))
                nodes.append(onnx.helper.make_node("DequantizeLinear", [tensor.name, f"{tensor.name}:scale"], [wide], axis=axis))
            else:
                tensor.CopyFrom(onnx.numpy_helper.from_array(value.astype(np.float16), tensor.name))
                nodes.append(onnx.helper.make_node("Cast", [tensor.name], [wide], to=onnx.TensorProto.FLOAT))
        body = [*nodes, *proto.graph.node]
        del proto.graph.node[:]
        proto.graph.node.extend(body)
    onnx.checker.check_model(proto)


def quantize(matrix: np.ndarray[Any, np.dtype[np.float32]], axis: int) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """A weight of two or more dimensions -> int8 codes and one scale per index of `axis`."""
    others = tuple(i for i in range(matrix.ndim) if i != axis)
    scale = np.maximum(np.abs(matrix).max(others, keepdims=True), 1e-12) / 127
    codes = np.clip(np.rint(matrix / scale), -127, 127).astype(np.int8)
    return codes, scale.ravel().astype(np.float32)


def _rename(graph: Any, strip: str) -> None:
    """Take `strip` off initialiser names."""
    for tensor in graph.initializer:
        if strip and tensor.name.startswith(strip):
            _rewire(graph, tensor.name, tensor.name[len(strip) :])
            tensor.name = tensor.name[len(strip) :]


def _rewire(graph: Any, old: str, new: str) -> None:
    for node in graph.node:
        for i, name in enumerate(node.input):
            if name == old:
                node.input[i] = new


def _matrices(graph: Any) -> dict[str, int]:
    """Initialisers that are the weight of a MatMul, Gemm or Conv -> the axis of their output channels."""
    names = {tensor.name for tensor in graph.initializer if len(tensor.dims) == 2}
    turned = {node.output[0]: node.input[0] for node in graph.node if node.op_type == "Transpose" and node.input[0] in names}
    wide = {tensor.name for tensor in graph.initializer if len(tensor.dims) > 2}
    axes: dict[str, int] = {}
    varying = _varying(graph)
    for node in graph.node:
        if node.op_type == "MatMul" and node.input[0] not in varying:
            continue  # a product of constants: OpenVINO 2026.4 fails to fold it from int8
        if node.op_type == "MatMul":
            weight = node.input[1]
            if weight in turned:
                axes[turned[weight]] = 0
            elif weight in names:
                axes[weight] = 1
        elif node.op_type == "Conv" and node.input[1] in wide:
            axes[node.input[1]] = 0
        elif node.op_type == "Gemm" and node.input[1] in names:
            transposed = any(a.name == "transB" and a.i for a in node.attribute)
            axes[node.input[1]] = 0 if transposed else 1
    return axes


def _varying(graph: Any) -> set[str]:
    """Names whose values (not only shapes) depend on the inputs."""
    varying = {port.name for port in graph.input}
    for node in graph.node:  # in topological order
        if node.op_type != "Shape" and varying.intersection(node.input):
            varying.update(node.output)
    return varying
