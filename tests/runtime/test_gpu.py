"""Sessions on a GPU: where the state stays, and that its values are the CPU's."""

import asyncio
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import onnxruntime
import pytest

from rnnonnx.runtime import Model, StatefulSession

CUDA = "CUDAExecutionProvider"
TOLERANCE = 1e-5


def missing():
    """Why there is no GPU to use; empty where there is one."""
    if CUDA not in onnxruntime.get_available_providers():
        return f"onnxruntime has no {CUDA} (pip install onnxruntime-gpu)"
    try:
        onnxruntime.OrtValue.ortvalue_from_numpy(np.zeros(1, "float32"), "cuda", 0)
    except Exception as error:  # noqa: BLE001 (its exceptions have no base of their own)
        return f"no GPU opens: {error}"
    return ""


WHY_NOT = missing()
pytestmark = [pytest.mark.gpu, pytest.mark.skipif(bool(WHY_NOT), reason=WHY_NOT)]


@pytest.fixture
def pair(zoo):
    """The same model on the GPU and on the CPU."""
    return StatefulSession(zoo.lstm(), providers=[CUDA]), StatefulSession(zoo.lstm())


def close(left, right):
    np.testing.assert_allclose(left, right, rtol=0, atol=TOLERANCE)


def same_states(left, right):
    for name, value in left.get_states().items():
        close(value, right.get_states()[name])


def test_values_are_those_of_the_cpu(zoo, pair):
    gpu, cpu = pair
    for seed in range(8):
        x = zoo.sequence(time=1 + seed % 3, seed=seed)
        close(gpu(x), cpu(x))
    same_states(gpu, cpu)


def test_the_state_stays_on_the_device(zoo, pair):
    gpu, _ = pair
    addresses = set()
    for seed in range(6):
        gpu(zoo.sequence(time=1, seed=seed))
        turns, turn, _ = gpu._carrier._position
        values = [buffer.value for buffer in turns._sets[turn].values()]
        assert {value.device_name() for value in values} == {"cuda"}
        addresses.add(tuple(value.data_ptr() for value in values))
    assert len(addresses) == 2


def test_device_arrays_go_in_and_come_out(zoo, pair):
    gpu, cpu = pair
    for seed in range(4):
        x = zoo.sequence(time=2, seed=seed)
        y = gpu(onnxruntime.OrtValue.ortvalue_from_numpy(x, "cuda", 0))
        assert y.device_name() == "cuda"
        close(y.numpy(), cpu(x))
    same_states(gpu, cpu)


def test_torch_tensors_go_in_and_come_out_by_dlpack(zoo, pair):
    torch = pytest.importorskip("torch", reason="torch is not installed")
    if not torch.cuda.is_available():
        pytest.skip("torch sees no GPU")
    gpu, cpu = pair
    for seed in range(4):
        x = zoo.sequence(time=2, seed=seed)
        y = torch.from_dlpack(gpu(torch.from_numpy(x).cuda()))
        assert y.is_cuda
        close(y.cpu().numpy(), cpu(x))


def test_a_state_moves_between_gpu_and_cpu(zoo, pair, tmp_path):
    gpu, cpu = pair
    x = zoo.sequence(time=3)
    gpu(x)
    gpu.save_states(tmp_path / "state")
    cpu.load_states(tmp_path / "state")
    assert cpu.steps == 3
    close(gpu(x), cpu(x))
    gpu.set_states(cpu.get_states())
    close(gpu(x), cpu(x))


def test_rows_are_reset_on_the_device(zoo, pair):
    for session in pair:
        session(zoo.sequence())
        session.reset_states(rows=[1])
    gpu, cpu = pair
    same_states(gpu, cpu)
    close(gpu(zoo.sequence()), cpu(zoo.sequence()))


def test_a_cancelled_call_changes_nothing(zoo):
    gpu = StatefulSession(zoo.wide(), providers=[CUDA])
    x = zoo.sequence(batch=4, time=400)

    async def main():
        await gpu.arun(None, {"x": x[:, :1]})
        before = gpu.get_states()
        task = asyncio.create_task(gpu.arun(None, {"x": x}))
        await asyncio.sleep(0.001)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert zoo.equal_states(await asyncio.to_thread(gpu.get_states), before)

    asyncio.run(main())


def test_cuda_graphs_give_the_same_values(zoo):
    # nothing but an Add and a ReduceSum: ONNX Runtime captures only what is on the GPU as a whole
    model = Model.load(zoo.total(), providers=[(CUDA, {"enable_cuda_graph": "1"})])
    assert model.cuda_graphs
    gpu, cpu = StatefulSession(model), StatefulSession(zoo.total())
    rng = np.random.default_rng(0)
    for batch in (2, 5, 2):
        gpu.reset_states()
        cpu.reset_states()
        for _ in range(6):
            x = rng.normal(size=(batch, 3)).astype("float32")
            close(gpu(x), cpu(x))
        same_states(gpu, cpu)


def test_sessions_of_threads_share_a_model_with_cuda_graphs(zoo):
    model = Model.load(zoo.total(), providers=[(CUDA, {"enable_cuda_graph": "1"})])
    rng = np.random.default_rng(0)
    inputs = [rng.normal(size=(2, 3)).astype("float32") for _ in range(50)]
    cpu = StatefulSession(zoo.total())
    expected = [cpu(x) for x in inputs]

    def work(_):
        session = StatefulSession(model)
        return [session(x) for x in inputs]

    with ThreadPoolExecutor(4) as pool:
        for got in pool.map(work, range(8)):
            for one, other in zip(got, expected, strict=True):
                close(one, other)
