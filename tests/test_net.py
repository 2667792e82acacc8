"""Net: a file or a torch module as a function on named arrays."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import pytest

from gpa.errors import CheckpointError
from gpa.nets.net import Net, TorchNet, load_net


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """sum = a * 2 + b over any length, and the length itself."""
    import openvino
    from openvino import opset13 as ops

    a, b = ops.parameter([-1], np.float32), ops.parameter([-1], np.float32)
    a.output(0).get_tensor().set_names({"a"})
    b.output(0).get_tensor().set_names({"b"})
    total, length = ops.add(ops.multiply(a, np.float32(2)), b), ops.shape_of(a)
    total.output(0).get_tensor().set_names({"sum"})
    length.output(0).get_tensor().set_names({"length"})
    path = tmp_path_factory.mktemp("net") / "toy.xml"
    openvino.save_model(openvino.Model([total, length], [a, b]), str(path), compress_to_fp16=False)
    return path


@pytest.fixture(scope="module")
def net(path: Path) -> Net:
    return load_net(path, threads=1)


def test_arrays_go_in_and_come_out_by_name(net: Net) -> None:
    for length in (3, 5, 3, 0):
        a = np.arange(length, dtype=np.float64)  # cast to what the net takes
        out = net(b=np.ones(length, np.float32), a=a)
        assert out.keys() == {"sum", "length"}
        assert out["sum"].dtype == np.float32
        np.testing.assert_array_equal(out["sum"], 2 * a + 1)
        assert out["length"] == length


def test_inputs_may_be_views_and_read_only(net: Net) -> None:
    a = np.arange(10, dtype=np.float32)[::2]
    a.flags.writeable = False
    np.testing.assert_array_equal(net(a=a, b=a)["sum"], 3 * a)


def test_outputs_are_the_callers_own(net: Net) -> None:
    first = net(a=np.ones(4), b=np.zeros(4))["sum"]
    net(a=np.zeros(4), b=np.zeros(4))
    np.testing.assert_array_equal(first, np.full(4, 2, np.float32))


def test_threads_do_not_meet(net: Net) -> None:
    wrong: list[int] = []

    def work(value: int) -> None:
        for _ in range(50):
            if not np.array_equal(net(a=np.full(1000, value), b=np.zeros(1000))["sum"], np.full(1000, 2.0 * value)):
                wrong.append(value)

    threads = [threading.Thread(target=work, args=(value,)) for value in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not wrong


@pytest.mark.parametrize("names", [("a",), ("a", "c"), ("a", "b", "c"), ()])
def test_a_wrong_name_lists_the_legal_ones(net: Net, names: tuple[str, ...]) -> None:
    with pytest.raises(CheckpointError, match="takes a, b; given"):
        net(**{name: np.ones(2, np.float32) for name in names})


def test_a_wrong_shape_is_named(net: Net) -> None:
    with pytest.raises(CheckpointError, match=r"a \(2, 2\)"):
        net(a=np.ones((2, 2)), b=np.ones(2))
    np.testing.assert_array_equal(net(a=np.ones(1), b=np.ones(1))["sum"], [3])  # and the net lives on


def test_missing_and_damaged_files_say_so(path: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="is missing"):
        load_net(tmp_path / "none.onnx")
    for name in ("bad.onnx", "bad.xml"):
        (tmp_path / name).write_bytes(b"\x00not a net")
        with pytest.raises(CheckpointError, match="cannot be loaded"):
            load_net(tmp_path / name)
    with pytest.raises(CheckpointError, match="cannot be loaded on NOWHERE"):
        load_net(path, device="NOWHERE")


def test_the_compiled_net_may_be_kept(path: Path, tmp_path: Path) -> None:
    for _ in range(2):
        assert load_net(path, cache_dir=tmp_path)(a=np.ones(1), b=np.ones(1))["sum"] == 3
    assert list(tmp_path.iterdir())


def test_a_torch_module_is_a_net_too() -> None:
    torch = pytest.importorskip("torch")

    class Toy(torch.nn.Module):  # type: ignore[name-defined,misc]
        def forward(self, x, n):
            return {"y": torch.nn.functional.dropout(x * n, 0.5, self.training), "n": n}

    out = TorchNet(Toy())(x=np.ones((2, 3), np.float64)[:, ::-1], n=np.array(3))
    np.testing.assert_array_equal(out["y"], np.full((2, 3), 3, np.float32))
    assert out["y"].dtype == np.float32
    assert out["n"].dtype == np.int64
