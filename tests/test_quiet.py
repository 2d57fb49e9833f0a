"""What holds TensorFlow's log back, and when it gives it out."""

from __future__ import annotations

import os

import pytest

from rnnonnx.quiet import silent_stderr


@pytest.mark.parametrize(
    ("error", "told"), [(None, ""), (KeyboardInterrupt, ""), (ImportError, "a log line\n")]
)
def test_the_log_is_told_only_where_it_may_explain_a_failure(capfd, error, told):
    def start():
        with silent_stderr():
            os.write(2, b"a log line\n")
            if error is not None:
                raise error

    if error is None:
        start()
    else:
        with pytest.raises(error):
            start()
    assert capfd.readouterr().err == told
