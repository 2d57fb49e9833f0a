"""A stateful model that was made elsewhere: silero-vad, over half a minute of real speech.

Nothing in silero-vad's file says that `stateN` has to come back as `state`. `annotate` writes
that one fact into a copy of it, and `StatefulSession` can drive it.

Needs the packages silero-vad (the model) and pyannote-audio (the speech). Only their data is
read, so they are installed without what they depend on. No Keras takes part: the comparison
is with plain ONNX Runtime and the state carried by hand. Prints the probability of speech over
time, a column a quarter of a second, from blank (none) to # (certain).
"""

from __future__ import annotations

import wave
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import onnxruntime

from rnnonnx.annotate import annotate
from rnnonnx.runtime import StatefulSession

RATE = 16000
FRAME, CONTEXT = 512, 64  # samples: new ones a call, and those before them that it sees again


def packaged(package: str, file: str) -> Path:
    """A file of an installed package, which is not imported."""
    try:
        path = Path(str(distribution(package).locate_file(file)))
    except PackageNotFoundError as error:
        message = f"this example needs {package}: pip install --no-deps {package}"
        raise ImportError(message) from error
    if not path.is_file():
        raise ImportError(f"this {package} has no {file}: pip install --no-deps -U {package}")
    return path


def speech_frames() -> list[np.ndarray]:
    """The recording in frames of float32 [1, CONTEXT + FRAME], each with the context it needs."""
    file = packaged("pyannote-audio", "pyannote/audio/sample/sample.wav")
    with wave.open(str(file)) as recording:
        raw = recording.readframes(recording.getnframes())
    samples = np.frombuffer(raw, np.int16).astype(np.float32) / 32768
    padded = np.concatenate([np.zeros(CONTEXT, np.float32), samples])
    starts = range(0, len(samples) - FRAME + 1, FRAME)
    return [padded[None, start : start + CONTEXT + FRAME] for start in starts]


def show(folder: Path) -> float:
    """The example; returns the largest difference from carrying the state by hand."""
    model = packaged("silero-vad", "silero_vad/data/silero_vad.onnx")
    frames = speech_frames()
    rate = np.array(RATE, np.int64)

    annotate(model, {"state": "stateN"}, output=folder / "silero_vad.onnx")
    session = StatefulSession(folder / "silero_vad.onnx")
    got = [session.run(None, {"input": frame, "sr": rate})[0] for frame in frames]

    plain = onnxruntime.InferenceSession(str(model), providers=["CPUExecutionProvider"])
    state, expected = np.zeros((2, 1, 128), np.float32), []
    for frame in frames:
        probability, state = plain.run(None, {"input": frame, "state": state, "sr": rate})
        expected.append(probability)

    speech = np.concatenate(got)[:, 0]
    print(f"{len(frames)} frames, speech in {np.mean(speech > 0.5):.0%} of them")
    columns = np.array_split(speech, len(frames) * FRAME * 4 // RATE)
    line = "".join(" .:-=+*%#"[min(int(column.mean() * 9), 8)] for column in columns)
    for start in range(0, len(line), 60):
        print(f"{start / 4:4.0f} s |{line[start : start + 60]}|")
    differences = [np.abs(a - b).max() for a, b in zip(got, expected, strict=True)]
    differences.append(np.abs(session.get_states()["state"] - state).max())
    return float(np.max(differences))


def main(out: Path | None = None) -> float:
    """Run the example with its files in `out`, or in a temporary directory."""
    with TemporaryDirectory() as scratch:
        return show(out or Path(scratch))


if __name__ == "__main__":
    from _example import run

    run(main, __doc__)
