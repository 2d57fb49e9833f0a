"""System 9: silero-vad's own file, annotated, over real speech, against state carried by hand.

The model and the recording come from packages that are installed for their data alone; where
they are missing, the tests are skipped.
"""

from __future__ import annotations

import numpy as np
import onnxruntime
import pytest

from rnnonnx.annotate import annotate
from rnnonnx.inspection import inspect_model
from rnnonnx.runtime import StatefulSession

RATE = np.array(16000, np.int64)


@pytest.fixture(scope="module")
def vad(example):
    """The names of the example, and its model and frames, float32 [frames, 576]."""
    names = example("09")
    try:
        model = names["packaged"]("silero-vad", "silero_vad/data/silero_vad.onnx")
        frames = np.concatenate(names["speech_frames"]())
    except ImportError as error:
        pytest.skip(str(error))
    return names, model, frames


@pytest.fixture(scope="module")
def file(vad, tmp_path_factory):
    path = tmp_path_factory.mktemp("files") / "silero_vad.onnx"
    annotate(vad[1], {"state": "stateN"}, output=path)
    return path


class ByHand:
    """The package's own file, its state carried by the caller."""

    def __init__(self, path, batch):
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self.session = onnxruntime.InferenceSession(
            path, options, providers=["CPUExecutionProvider"]
        )
        self.state = np.zeros((2, batch, 128), np.float32)

    def __call__(self, frame):
        feed = {"input": frame, "state": self.state, "sr": RATE}
        output, self.state = self.session.run(None, feed)
        return output


@pytest.mark.parametrize("batch", [1, 2, 5, 20])
def test_speech_frames(vad, file, batch):
    """Rows are stretches of the recording, side by side: real frames, each row its own."""
    _, model, frames = vad
    steps = len(frames) // batch
    rows = frames[: steps * batch].reshape(batch, steps, -1)
    session, by_hand = StatefulSession(file), ByHand(model, batch)
    said = []
    for step in range(steps):
        frame = rows[:, step]
        (got,) = session.run(None, {"input": frame, "sr": RATE})
        np.testing.assert_array_equal(got, by_hand(frame))
        np.testing.assert_array_equal(session.get_states()["state"], by_hand.state)
        said.append(got)
    said = np.array(said)
    # the frames are what the model is made for: it is sure of speech and of silence
    assert said.max() > 0.95
    assert said.min() < 0.05
    assert session.steps == steps


def test_the_state_matters(vad, file):
    _, _, frames = vad
    session, fresh = StatefulSession(file), StatefulSession(file)
    worst = 0.0
    for frame in frames[200:300, None]:
        feed = {"input": frame, "sr": RATE}
        fresh.reset_states()
        worst = max(worst, np.abs(session.run(None, feed)[0] - fresh.run(None, feed)[0]).item())
    assert worst > 0.1


def test_rows_are_reset_on_an_axis_that_is_not_the_first(vad, file):
    _, model, frames = vad
    rows = frames[:800].reshape(4, 200, -1)
    session, by_hand = StatefulSession(file), ByHand(model, 4)
    for step in range(20):
        if step == 10:
            session.reset_states(rows=[1, 3])
            by_hand.state[:, [1, 3]] = 0.0
        (got,) = session.run(None, {"input": rows[:, 100 + step], "sr": RATE})
        np.testing.assert_array_equal(got, by_hand(rows[:, 100 + step]))


def test_the_file_says_what_was_annotated(vad, file):
    summary = inspect_model(file)
    (state,) = summary.manifest.states
    assert (state.name, state.input, state.output) == ("state", "state", "stateN")
    assert state.shape == (2, "batch", 128)
    assert [tensor.name for tensor in summary.manifest.inputs] == ["input", "sr"]
    assert summary.parameters == inspect_model(vad[1]).parameters


def test_the_example(vad, tmp_path, capsys):
    assert vad[0]["main"](tmp_path) <= 1e-5
    assert "|" in capsys.readouterr().out
    assert [path.name for path in tmp_path.iterdir()] == ["silero_vad.onnx"]


def test_a_missing_package_is_named_with_its_remedy(example):
    with pytest.raises(ImportError, match="pip install --no-deps no-such-package"):
        example("09")["packaged"]("no-such-package", "file")
