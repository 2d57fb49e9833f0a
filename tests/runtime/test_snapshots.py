"""Snapshots: golden bytes of every format, and the way there and back."""

from __future__ import annotations

import hashlib
import subprocess
import sys

import numpy as np
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rnnonnx.errors import StateError
from rnnonnx.manifest import DTYPES, Manifest, Source, StateTensor
from rnnonnx.runtime import Model, State, StatefulSession
from rnnonnx.runtime._state_blob import dump_state, dump_streams, load_state, load_streams
from rnnonnx.runtime._state_container import pack
from rnnonnx.runtime._stream_states import StreamStates

H = np.array([[1, 2, 3]], dtype="float32")
WEIGHTS = "sha256:" + "ab" * 32

STATES_2 = (
    '[{\\"dtype\\":\\"float32\\",\\"name\\":\\"lstm.h\\",\\"shape\\":[\\"batch\\",3]},'
    '{\\"dtype\\":\\"float32\\",\\"name\\":\\"lstm.c\\",\\"shape\\":[\\"batch\\",3]}]'
)
GOLDEN = {
    "1": (
        '{\\"batch\\":1,\\"format\\":1,\\"sha256\\":\\"'
        "e9c3a5ca4a78add01e283dba4df11a0e2c201dcbad1e08d894ffea48d5bfebf8"
        '\\",\\"states\\":[\\"lstm.h\\",\\"lstm.c\\"],\\"steps\\":0,'
        f'\\"weights\\":\\"{WEIGHTS}\\"}}'
    ),
    "2": (
        '{\\"batch\\":1,\\"format\\":2,\\"manifest\\":1,\\"sha256\\":\\"'
        "49417a7e27c25f4881b5c278edf76cb63a5ee43698775ed7e2ab8a3a8157582d"
        f'\\",\\"states\\":{STATES_2},\\"steps\\":7,\\"streams\\":null,'
        f'\\"weights\\":\\"{WEIGHTS}\\"}}'
    ),
    "2 of streams": (
        '{\\"batch\\":1,\\"format\\":2,\\"manifest\\":1,\\"sha256\\":\\"'
        "bba058836a7ba7c81691bef9e290da4e38207368fac15daf83da1bf704f6a8d5"
        f'\\",\\"states\\":{STATES_2},\\"steps\\":[7],\\"streams\\":[\\"z\\\\u00fc\\"],'
        f'\\"weights\\":\\"{WEIGHTS}\\"}}'
    ),
}


def golden(which):
    """The whole bytes: length, padded header, c, h."""
    header = (
        f'{{"__metadata__":{{"rnnonnx.state":"{GOLDEN[which]}"}},'
        '"lstm.c":{"dtype":"F32","shape":[1,3],"data_offsets":[0,12]},'
        '"lstm.h":{"dtype":"F32","shape":[1,3],"data_offsets":[12,24]}}'
    ).encode()
    header += b" " * (-len(header) % 8)
    return len(header).to_bytes(8, "little") + header + (-H).tobytes() + H.tobytes()


@pytest.fixture
def manifest(lstm_model):
    return lstm_model.manifest


@pytest.fixture
def state(manifest):
    return State(manifest.states, {"lstm.h": H, "lstm.c": -H}, 7)


# --- golden bytes ---------------------------------------------------------------------------


def test_golden_bytes_written(manifest, state):
    assert dump_state(state, manifest) == golden("2")
    streams = StreamStates(manifest.states, state.values, ["zü"], [7])
    assert dump_streams(streams, manifest) == golden("2 of streams")


@pytest.mark.parametrize(("which", "steps"), [("1", 0), ("2", 7)])
def test_golden_bytes_read(lstm_model, tmp_path, which, steps):
    session = StatefulSession(lstm_model)
    session.restore(golden(which))
    assert session.steps == steps
    assert list(session.get_states()) == ["lstm.h", "lstm.c"]
    np.testing.assert_array_equal(session.get_states()["lstm.h"], H)
    np.testing.assert_array_equal(session.get_states()["lstm.c"], -H)
    (tmp_path / "state").write_bytes(golden(which))
    session.reset_states()
    session.load_states(tmp_path / "state")
    assert session.steps == steps


def test_golden_bytes_of_streams_read(zoo, manifest, state):
    streams = load_streams(golden("2 of streams"), manifest)
    assert (streams.ids, streams.steps) == (("zü",), (7,))
    assert zoo.same_states(streams, state)


# --- there and back -------------------------------------------------------------------------


def test_a_snapshot_is_what_a_file_holds(session, tmp_path):
    session.save_states(tmp_path / "state")
    assert session.snapshot() == (tmp_path / "state").read_bytes()


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_a_session_goes_on_from_a_snapshot(zoo, lstm_model, session, kind):
    snapshot = session.snapshot()
    x = zoo.sequence(seed=4)
    expected = session(x)
    other = StatefulSession(lstm_model)
    other.restore(kind(snapshot))
    assert (other.batch_size, other.steps) == (2, 7)
    assert other(x).tobytes() == expected.tobytes()
    session.restore(snapshot)
    assert session(x).tobytes() == expected.tobytes()


def test_a_restored_state_shares_no_memory_with_the_snapshot(zoo, session):
    snapshot = bytearray(session.snapshot())
    session.restore(snapshot)
    before = session.get_states()
    snapshot[:] = bytes(len(snapshot))
    assert zoo.equal_states(session.get_states(), before)


def test_another_process_goes_on_from_a_snapshot(zoo, session, tmp_path):
    (tmp_path / "model.onnx").write_bytes(zoo.lstm())
    (tmp_path / "snapshot").write_bytes(session.snapshot())
    x = zoo.sequence(seed=5)
    np.save(tmp_path / "x.npy", x)
    code = (
        "import numpy as np\n"
        "from rnnonnx.runtime import StatefulSession\n"
        "session = StatefulSession('model.onnx')\n"
        "session.restore(open('snapshot', 'rb').read())\n"
        "np.save('y.npy', session(np.load('x.npy')))\n"
        "print(session.steps)\n"
    )
    out = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, timeout=60, check=True
    )
    assert out.stdout == b"14\n"
    assert np.load(tmp_path / "y.npy").tobytes() == session(x).tobytes()


@pytest.mark.gpu
def test_a_state_moves_between_cpu_and_gpu(zoo, lstm_model):
    if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
        pytest.skip("needs onnxruntime-gpu and a CUDA device")
    cuda = Model.load(zoo.lstm(), providers=["CUDAExecutionProvider", "CPUExecutionProvider"])
    first, second = StatefulSession(lstm_model), StatefulSession(cuda)
    whole = StatefulSession(lstm_model)(zoo.sequence(time=9))
    pieces = []
    for number, piece in enumerate(np.split(zoo.sequence(time=9), 3, axis=1)):
        pieces.append(first(piece))
        snapshot = first.snapshot()
        second.restore(snapshot)
        assert second.snapshot() == snapshot  # not a bit is lost on the way
        assert second.steps == 3 * (number + 1)
        first, second = second, first
    np.testing.assert_allclose(np.concatenate(pieces, axis=1), whole, atol=1e-5)


@pytest.mark.parametrize("name", ["counter", "total", "stateless"])
def test_other_layouts(zoo, name):
    first, second = (StatefulSession(getattr(zoo, name)()) for _ in range(2))
    tensor = first.manifest.inputs[0]
    first(np.ones((2, *tensor.shape[1:]), dtype=tensor.dtype))
    second.restore(first.snapshot())
    assert zoo.equal_states(second.get_states(), first.get_states())
    assert second.steps == 1


dims = st.integers(0, 3) | st.just("batch")
layouts = st.lists(
    st.tuples(
        st.text(st.characters(exclude_categories=["Cs"]), min_size=1).filter(
            lambda name: name != "__metadata__"
        ),
        st.sampled_from(sorted(DTYPES)),
        st.lists(dims, max_size=4).filter(lambda shape: shape.count("batch") <= 1),
    ),
    max_size=4,
    unique_by=lambda item: item[0],
).map(lambda items: tuple(StateTensor(n, f"i{n}", f"o{n}", d, tuple(s)) for n, d, s in items))


def random_values(layout, batch, seed):
    """Random bits, in memory orders of all kinds."""
    rng, values = np.random.default_rng(seed), {}
    for item in layout:
        shape = item.concrete_shape(batch)[::-1]
        high = 2 if item.dtype == "bool" else 256
        size = int(np.prod(shape)) * np.dtype(item.dtype).itemsize
        array = rng.integers(0, high, size, dtype="uint8").view(item.dtype).reshape(shape)
        values[item.name] = array.T
    return values


def manifest_of(layout):
    return Manifest("test", Source("onnx", "model", WEIGHTS), (), (), layout)


@settings(max_examples=150, deadline=None)
@given(layouts, st.integers(1, 4), st.integers(0, 2**63 - 1), st.integers(0, 99))
def test_round_trip_of_any_layout(zoo, layout, batch, steps, seed):
    manifest = manifest_of(layout)
    state = State(layout, random_values(layout, batch, seed), steps)
    data = dump_state(state, manifest)
    loaded = load_state(data, manifest)
    assert zoo.same_states(loaded, state)
    assert (loaded.steps, loaded.batch, loaded.layout) == (steps, state.batch, layout)
    assert dump_state(loaded, manifest) == data


# --- what cannot be written -----------------------------------------------------------------


@pytest.mark.parametrize("steps", [-1, 2**63, 1.0, None, True])
def test_a_state_without_a_step_count_is_not_written(manifest, steps):
    state = State(manifest.states, {"lstm.h": H, "lstm.c": H}, steps)
    with pytest.raises(StateError, match="step count"):
        dump_state(state, manifest)


def test_a_state_of_another_model_is_not_written(zoo, state):
    with pytest.raises(StateError, match="not those of the model"):
        dump_state(state, StatefulSession(zoo.gru()).manifest)


def test_a_name_that_safetensors_has(tmp_path):
    layout = (StateTensor("__metadata__", "i", "o", "float32", ("batch", 3)),)
    with pytest.raises(StateError, match="safetensors"):
        dump_state(State(layout, {"__metadata__": H}), manifest_of(layout))


def test_no_snapshot_before_the_first_call(lstm_model):
    with pytest.raises(StateError, match="no state to take a snapshot of"):
        StatefulSession(lstm_model).snapshot()


def test_more_ids_than_a_header_can_hold(manifest, state):
    streams = StreamStates(manifest.states, state.values, ["x" * 100_000_001], [0])
    with pytest.raises(StateError, match="cannot be saved"):
        dump_streams(streams, manifest)


def test_the_checksum_is_what_the_page_says():
    header = {"format": 2, "states": ["a"], "note": "ü"}
    array = np.arange(6, dtype="float32").reshape(2, 3)
    digest = hashlib.sha256(b'{"format":2,"note":"\\u00fc","states":["a"]}')
    digest.update(b'\n["a","float32",[2,3]]\n' + array.tobytes())
    assert digest.hexdigest().encode() in pack(header, {"a": array})
