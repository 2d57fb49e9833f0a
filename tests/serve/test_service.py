"""The server without a protocol: sequences, their order, failures, cancellation, replacement."""

from __future__ import annotations

import asyncio
import contextlib
import time

import numpy as np
import pytest

from rnnonnx import InputError, StateFileError
from rnnonnx.errors import PoolFullError
from rnnonnx.serve import (
    ANYBODY,
    Caller,
    Carry,
    InferRequest,
    Kind,
    Limits,
    ModelFile,
    Pooling,
    RefusedError,
    Settings,
    Step,
    Streams,
)
from rnnonnx.serve._limits import RateLimit


def number(value, step, model="ledger"):
    return InferRequest(model, {"x": np.array([[value]])}, sequence=step)


async def stepped(service, value, step, caller=ANYBODY):
    response = await service.infer(caller, number(value, step))
    return int(response.outputs["y"][0, 0])


@contextlib.contextmanager
def refused(kind, match=None):
    with pytest.raises(RefusedError, match=match) as caught:
        yield caught
    assert caught.value.kind is kind


def test_requests_of_one_sequence_keep_their_order(models, kit):
    async def main():
        async with kit.service(models) as service:
            steps = [Step("s", start=i == 0, end=i == 49) for i in range(50)]
            # and a sequence of the same name begins at once behind its end
            steps += [Step("s", start=True), Step("s", end=True)]
            found = await asyncio.gather(*(stepped(service, i, s) for i, s in enumerate(steps)))
            expected = [kit.ledger_of(range(i + 1)) for i in range(50)]
            assert found == [*expected, 50, kit.ledger_of([50, 51])]
            assert not service.open_sequences(ANYBODY, "ledger")
            assert not len(service.models.named("ledger").sequences.lanes)

    kit.run(main())


def test_streams_share_batches(models, kit):
    async def main():
        async with kit.service(models, pooling=Pooling(max_delay=5.0)) as service:
            await asyncio.gather(*(stepped(service, i, Step(i + 1, start=True)) for i in range(20)))
            await asyncio.gather(*(stepped(service, i, Step(i + 1)) for i in range(20)))
            assert 20 in service.statistics("ledger")["ledger"].batches

    kit.run(main())


def test_a_request_that_is_cancelled(models, kit):
    """A start leaves nothing open; another leaves the sequence as it was, since it never ran."""

    async def main():
        async with kit.service(models, pooling=Pooling(max_delay=60.0)) as service:
            pool = service.models.named("ledger").pool
            await stepped(service, 1, Step("idle", start=True))
            opening = asyncio.ensure_future(stepped(service, 2, Step("b", start=True)))
            while len(pool) < 2:
                await asyncio.sleep(0.001)
            behind = asyncio.ensure_future(stepped(service, 3, Step("b")))
            await asyncio.sleep(0.01)
            opening.cancel()
            with pytest.raises(asyncio.CancelledError):
                await opening
            assert len(pool) == 1
            with refused(Kind.NOT_FOUND):
                await behind
            second = await stepped(service, 4, Step("idle"))
            assert second == kit.ledger_of([1, 4])
            other = asyncio.ensure_future(stepped(service, 5, Step("c", start=True)))
            while len(pool) < 2:
                await asyncio.sleep(0.001)
            assert await stepped(service, 6, Step("idle")) == kit.ledger_of([1, 4, 6])
            assert await other == 5
            waits = asyncio.ensure_future(stepped(service, 7, Step("c")))
            await asyncio.sleep(0.01)
            waits.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waits
            ends = [stepped(service, 8, Step("idle", end=True))]
            ends.append(stepped(service, 9, Step("c", end=True)))
            assert (await asyncio.gather(*ends))[1] == kit.ledger_of([5, 9])

    kit.run(main())


def test_an_end_that_is_cancelled_after_its_batch_began_ends_the_sequence(models, kit):
    async def main():
        async with kit.service(models) as service:
            await stepped(service, 1, Step("s", start=True))
            last = asyncio.ensure_future(stepped(service, 2, Step("s", end=True)))
            await asyncio.sleep(0.0)
            time.sleep(0.2)  # the batch runs, and the loop does not hear of it
            last.cancel()
            with pytest.raises(asyncio.CancelledError):
                await last
            assert not service.open_sequences(ANYBODY, "ledger")

    kit.run(main())


def test_a_key_sees_its_own_sequences(models, kit):
    async def main():
        a, b = Caller("a", admin=False), Caller("b", admin=False)
        async with kit.service(models) as service:
            await stepped(service, 1, Step(1, start=True), a)
            await stepped(service, 2, Step(1, start=True), b)
            await stepped(service, 3, Step("1", start=True), b)
            assert service.open_sequences(a, "ledger") == [1]
            assert sorted(service.open_sequences(b, "ledger"), key=str) in ([1, "1"], ["1", 1])
            with refused(Kind.NOT_FOUND):
                await service.read_states(a, "ledger", "1")
            assert not service.close_sequence(a, "ledger", "1")
            states = await service.read_states(b, "ledger", "1")
            assert states["h"].tolist() == [[3]]
            assert service.close_sequence(b, "ledger", "1")
            assert not service.close_sequence(b, "ledger", "1")
            with refused(Kind.NOT_FOUND):
                await stepped(service, 1, Step("1"), b)

    kit.run(main())


def test_limits(models, kit):
    async def main():
        limits = Limits(waiting=2, sequences=1)
        pooling = Pooling(max_delay=60.0, capacity=2)
        async with kit.service(models, limits=limits, pooling=pooling) as service:
            a, b, c = (Caller(name, admin=False) for name in "abc")
            await stepped(service, 1, Step(1, start=True), a)
            with refused(Kind.LIMITED) as caught:
                await stepped(service, 1, Step(2, start=True), a)
            assert caught.value.retry_after > 0
            waiting = [
                asyncio.ensure_future(stepped(service, 1, Step(1, start=True), b)),
                asyncio.ensure_future(stepped(service, 1, Step(1), b)),
            ]
            await asyncio.sleep(0.05)
            with refused(Kind.FULL, "no state has changed") as caught:
                await stepped(service, 1, Step(1), a)
            assert caught.value.retry_after > 0
            waiting[1].cancel()
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            with refused(Kind.FULL, "no sequence was opened"):
                await stepped(service, 1, Step(1, start=True), c)
            await stepped(service, 2, Step(1), a)
            assert await waiting[0] == 1

    kit.run(main())


def test_an_idle_sequence_is_closed(models, kit):
    async def main():
        async with kit.service(models, pooling=Pooling(idle_timeout=0.1)) as service:
            await stepped(service, 1, Step(1, start=True))
            pool = service.models.named("ledger").pool
            async with asyncio.timeout(10):
                while len(pool) or service.open_sequences(ANYBODY, "ledger"):
                    await asyncio.sleep(0.01)
            with refused(Kind.NOT_FOUND, "idle for 0.1 s"):
                await stepped(service, 2, Step(1))

    kit.run(main())


def test_a_model_is_replaced_under_its_streams(own_models, kit):
    """While 20 sequences are stepped all the time; none notices."""

    async def main():
        async with kit.service(own_models) as service:

            async def drive(name):
                for i in range(60):
                    step = Step(name, start=i == 0, end=i == 59)
                    assert await stepped(service, i, step) == kit.ledger_of(range(i + 1))
                    await asyncio.sleep(0.002)

            async def replace():
                for _ in range(5):
                    await service.load(ANYBODY, "ledger", Carry())
                    await asyncio.sleep(0.01)

            await asyncio.gather(*(drive(i) for i in range(1, 21)), replace())

    kit.run(main())


def test_a_model_of_other_weights(own_models, kit):
    async def main():
        path = own_models / "ledger.onnx"
        async with kit.service(own_models) as service:
            await stepped(service, 1, Step("s", start=True))
            path.write_bytes(kit.ledger("cd", base=10))
            with refused(Kind.CONFLICT, "what was loaded goes on"):
                await service.load(ANYBODY, "ledger", Carry())
            assert await stepped(service, 2, Step("s")) == kit.ledger_of([1, 2])
            await service.load(ANYBODY, "ledger", Carry(Streams.MAP))
            expected = kit.ledger_of([1, 2]) * 10 + 3
            assert await stepped(service, 3, Step("s")) == expected
            # other names of states need to be told
            path.write_bytes(kit.ledger("ef", base=10, state="g"))
            with refused(Kind.CONFLICT):
                await service.load(ANYBODY, "ledger", Carry(Streams.MAP))
            await service.load(ANYBODY, "ledger", Carry(Streams.MAP, {"h": "g"}))
            assert await stepped(service, 4, Step("s")) == expected * 10 + 4
            path.write_bytes(kit.ledger("01", base=10))
            await service.load(ANYBODY, "ledger", Carry(Streams.END))
            with refused(Kind.NOT_FOUND):
                await stepped(service, 5, Step("s"))
            await stepped(service, 5, Step("s", start=True))

    kit.run(main())


def test_a_file_that_is_no_model_any_longer(own_models, kit):
    async def main():
        async with kit.service(own_models) as service:
            await stepped(service, 1, Step("s", start=True))
            (own_models / "ledger.onnx").write_bytes(b"damaged")
            with refused(Kind.FAILED):
                await service.load(ANYBODY, "ledger", Carry())
            assert await stepped(service, 2, Step("s")) == kit.ledger_of([1, 2])
            (own_models / "ledger.onnx").write_bytes(kit.stateless())
            with refused(Kind.CONFLICT, "no states"):
                await service.load(ANYBODY, "ledger", Carry())
            assert await stepped(service, 3, Step("s")) == kit.ledger_of([1, 2, 3])

    kit.run(main())


def test_an_unloaded_model_keeps_its_sequences(models, kit):
    async def main():
        async with kit.service(models) as service:
            await stepped(service, 1, Step("s", start=True))
            await service.unload(ANYBODY, "ledger", Carry())
            assert not service.ready
            assert not service.is_ready("ledger")
            with refused(Kind.NOT_FOUND, "not loaded"):
                await stepped(service, 2, Step("s"))
            (entry,) = service.index()
            assert (entry.ready, entry.reason) == (False, "unloaded")
            await service.load(ANYBODY, "ledger", Carry())
            assert await stepped(service, 2, Step("s")) == kit.ledger_of([1, 2])
            await service.unload(ANYBODY, "ledger", Carry(Streams.END))
            await service.load(ANYBODY, "ledger", Carry())
            with refused(Kind.NOT_FOUND):
                await stepped(service, 2, Step("s"))

    kit.run(main())


def test_models_of_a_repository(models, kit):
    async def main():
        async with kit.service(models, names=(), repository=models) as service:
            assert [entry.ready for entry in service.index()] == [False] * 5
            await service.load(ANYBODY, "ledger", Carry())
            assert await stepped(service, 1, Step("s", start=True)) == 1
            for name in ("../models/ledger", "ledger.onnx", "", "/etc/passwd", "."):
                with refused(Kind.NOT_FOUND, "no model"):
                    await service.load(ANYBODY, name, Carry())

    kit.run(main())


def test_a_server_that_goes_down_takes_no_requests(models, kit):
    async def main():
        async with kit.service(models) as service:
            await service.stop()
            assert not service.ready
            with refused(Kind.UNAVAILABLE):
                await stepped(service, 1, Step("s", start=True))

    kit.run(main())


def test_kept_sequences_of_another_model_stop_the_start(own_models, kit, tmp_path):
    kept = tmp_path / "kept"

    async def before():
        async with kit.service(own_models, state_folder=kept) as service:
            await stepped(service, 1, Step("s", start=True))

    async def start():
        async with kit.service(own_models, state_folder=kept) as service:
            return await stepped(service, 2, Step("s"))

    kit.run(before())
    (own_models / "ledger.onnx").write_bytes(kit.ledger("cd"))
    with pytest.raises(StateFileError, match="snapshot") as caught:
        kit.run(start())
    assert "ledger.streams" in str(caught.value)
    # nothing is lost
    (own_models / "ledger.onnx").write_bytes(kit.ledger())
    assert kit.run(start()) == kit.ledger_of([1, 2])


def test_sequences_of_a_model_that_is_not_loaded_are_kept(models, kit, tmp_path):
    """Over two restarts: unloaded when the server ends, and not loaded when it starts."""
    options = {"repository": models, "state_folder": tmp_path / "kept"}

    async def first():
        async with kit.service(models, **options) as service:
            await stepped(service, 1, Step("s", start=True))
            await service.unload(ANYBODY, "ledger", Carry())

    async def second():
        async with kit.service(models, names=(), **options):
            pass

    async def third():
        async with kit.service(models, names=(), **options) as service:
            await service.load(ANYBODY, "ledger", Carry())
            assert await stepped(service, 2, Step("s", end=True)) == kit.ledger_of([1, 2])

    file = tmp_path / "kept" / "ledger.streams"
    for main, there in [(first, True), (second, True), (third, False)]:
        kit.run(main())
        assert file.exists() is there


def test_parked_sequences_that_end_are_not_back_after_a_restart(models, kit, tmp_path):
    options = {"names": (), "repository": models, "state_folder": tmp_path / "kept"}

    async def main():
        async with kit.service(models, state_folder=tmp_path / "kept") as service:
            await stepped(service, 1, Step("s", start=True))
        async with kit.service(models, **options) as service:
            await service.unload(ANYBODY, "ledger", Carry(Streams.END))
        async with kit.service(models, **options) as service:
            await service.load(ANYBODY, "ledger", Carry())
            assert not service.open_sequences(ANYBODY, "ledger")

    kit.run(main())


def test_two_servers_do_not_share_a_state_folder(models, kit, tmp_path):
    kept = tmp_path / "kept"

    async def main():
        async with kit.service(models, state_folder=kept) as service:
            await stepped(service, 1, Step("s", start=True))
            with pytest.raises(InputError, match="another server") as caught:
                async with kit.service(models, state_folder=kept):
                    pass
            assert "folder of its own" in str(caught.value)
        async with kit.service(models, state_folder=kept) as other:
            await service.stop()  # a second time: it writes no more into what the other has
            assert not list(kept.glob("*.streams"))
            assert await stepped(other, 2, Step("s", end=True)) == kit.ledger_of([1, 2])

    kit.run(main())


def test_more_kept_sequences_than_there_is_room_for_stop_the_start(models, kit, tmp_path):
    async def main(capacity, count):
        pooling = Pooling(capacity=capacity)
        folder = tmp_path / "kept"
        async with kit.service(models, state_folder=folder, pooling=pooling) as service:
            for i in range(count):
                await stepped(service, i, Step(i + 1, start=True))
            return len(service.open_sequences(ANYBODY, "ledger"))

    kit.run(main(3, 3))
    with pytest.raises(PoolFullError):
        kit.run(main(2, 0))
    assert kit.run(main(3, 0)) == 3


@pytest.mark.parametrize("name", ["a", "7", '["a"]', '["a", 0]', '["a",7]', '[7, "a"]', "[" * 9999])
def test_kept_streams_of_another_program_stop_the_start(models, kit, tmp_path, name):
    from rnnonnx.runtime import StreamPool

    with StreamPool(models / "ledger.onnx") as pool:
        pool.open(name)
        (tmp_path / "ledger.streams").write_bytes(pool.snapshot())

    async def start():
        async with kit.service(models, state_folder=tmp_path):
            pass

    with pytest.raises(StateFileError, match="no server gives"):
        kit.run(start())
    assert (tmp_path / "ledger.streams").exists()


def test_kept_sequences_that_are_damaged_stop_the_start(own_models, kit, tmp_path):
    kept = tmp_path / "kept"
    kept.mkdir()
    (kept / "ledger.streams").write_bytes(b"damaged")

    async def start():
        async with kit.service(own_models, state_folder=kept):
            pass

    with pytest.raises(StateFileError, match="snapshot"):
        kit.run(start())
    assert (kept / "ledger.streams").exists()


def test_rates():
    limit = RateLimit("3/minute")
    a, b = Caller("a", admin=False), Caller("b", admin=False)
    for _ in range(3):
        limit.check(a)
    with refused(Kind.LIMITED) as caught:
        limit.check(a)
    assert 0 < caught.value.retry_after <= 60
    limit.check(b)
    with pytest.raises(InputError, match="rate"):
        RateLimit("often")


@pytest.mark.parametrize(
    "options",
    [
        {"models": ()},
        {"host": "0.0.0.0"},  # noqa: S104
        {"host": "example.org"},
        {"models": (ModelFile("a", None), ModelFile("a", None))},
    ],
)
def test_settings_that_are_refused(options):
    with pytest.raises(InputError):
        Settings(**{"models": (ModelFile("a", None),), **options})


@pytest.mark.parametrize("name", ["", "a/b", "../a", ".a", "a b", "ü", "a" * 129])
def test_names_that_are_none(name):
    with pytest.raises(InputError, match="called"):
        ModelFile(name, None)


def test_settings_for_other_machines(tmp_path):
    model = (ModelFile("a", None),)
    Settings(models=model, host="0.0.0.0", open_to_all=True)  # noqa: S104
    Settings(models=model, host="0.0.0.0", keys=tmp_path)  # noqa: S104
    Settings(models=model, host="::1")


def test_a_state_folder_that_cannot_be_made(models, kit, tmp_path):
    (tmp_path / "file").write_text("")

    async def start():
        async with kit.service(models, state_folder=tmp_path / "file" / "kept"):
            pass

    with pytest.raises(StateFileError, match="folder"):
        kit.run(start())
