"""Envelopes written straight into the broker by somebody without a key: each refused, the worker alive."""

from __future__ import annotations

import contextlib
import uuid
from typing import TYPE_CHECKING, Any

import msgpack
import pytest

from flashq import Endpoint
from flashq.errors import EnvelopeError, JobNotFound, JobRefused
from flashq.job import Call, EndpointJob
from flashq.model.envelope import Header, seal
from flashq.model.keyring import Direction, Keyring
from tests.rig import Rig, rig, wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

pytestmark = pytest.mark.requires("valkey")


@Endpoint(name="target", cpu="any", workers=(0, 1))
def target(record: str) -> str:
    from pathlib import Path as Place

    with Place(record).open("a") as file:
        file.write("ran\n")
    return "ran"


@pytest.fixture(scope="module")
def shared() -> Iterator[Rig]:
    with rig() as made:
        made.ready_worker(target)
        yield made


def call_of(made: Rig, job: str) -> bytes:
    raw = made.broker.execute("HGET", made.broker.keys.of("job", job), "fq_call")
    assert raw, "the call is kept until the job ends"
    return bytes(raw)


def a_call(made: Rig, record: Path, *, keys: Keyring | None = None, **changes: Any) -> tuple[str, bytes]:
    """A job's id and its call, signed as a client would (with `keys`: as somebody with another key would)."""
    from flashq import codec

    registration = made.client.registration(target)
    job = f"target-{uuid.uuid4()}"
    header = {
        "direction": Direction.CALL,
        "endpoint": "target",
        "job": job,
        "revision": registration.revision,
        "python": codec.PYTHON,
        "created_ms": made.client.now_ms(),
    }
    payload = codec.dump_arguments((str(record),), {}, 1 << 20)
    return job, seal(Header(**{**header, **changes}), payload, keys or made.keyring)


def planted(made: Rig, job: str, call: bytes) -> EndpointJob[Any]:
    """Submit bytes as they are, as whoever can write to the broker could."""
    transitions = made.broker.transitions
    revision = made.client.registration(target).revision
    made.broker.run(transitions.submit("target", job, revision=revision, call=call))
    handle: EndpointJob[Any] = EndpointJob(made.client, Call(job, "target"))
    made.client.waiting.add(handle._call)
    made.client.waiting.watch([job])
    return handle


def unsigned(call: bytes) -> bytes:
    head, payload, _ = msgpack.unpackb(call)
    return bytes(msgpack.packb([head, payload, b""]))


def flipped(call: bytes) -> bytes:
    changed = bytearray(call)
    changed[len(changed) // 2] ^= 1
    return bytes(changed)


def evil(call: bytes) -> bytes:
    head, _, signature = msgpack.unpackb(call)
    return bytes(msgpack.packb([head, b"cos\nsystem\n(S'true'\ntR.", signature]))


@pytest.mark.parametrize(
    "attack", [unsigned, flipped, evil, lambda call: call[:-9], lambda _: b"", lambda _: b"\xc1"]
)
def test_what_was_altered_is_refused(shared: Rig, tmp_path: Path, attack: Callable[[bytes], bytes]) -> None:
    job, call = a_call(shared, tmp_path / "ran")
    with pytest.raises(JobRefused):
        planted(shared, job, attack(call)).result(15)
    assert not (tmp_path / "ran").exists()
    assert target.remote(str(tmp_path / "after")) == "ran"


@pytest.mark.parametrize(
    "changes",
    [
        {"keys": Keyring([b"x" * 32])},
        {"endpoint": "other"},
        {"direction": Direction.OUTCOME},
        {"revision": "ab" * 32},
        {"generation": 3},
        {"expires_ms": 1},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_what_was_signed_for_something_else_is_refused(
    shared: Rig, tmp_path: Path, changes: dict[str, Any]
) -> None:
    job, call = a_call(shared, tmp_path / "ran", **changes)
    with pytest.raises(JobRefused):
        planted(shared, job, call).result(15)
    assert not (tmp_path / "ran").exists()


def test_a_call_under_another_jobs_id_is_refused(shared: Rig, tmp_path: Path) -> None:
    _, call = a_call(shared, tmp_path / "ran")
    with pytest.raises(JobRefused, match="WrongBinding"):
        planted(shared, f"target-{uuid.uuid4()}", call).result(15)


def test_a_completed_call_submitted_again_after_its_job_was_deleted_makes_no_job(
    shared: Rig, tmp_path: Path
) -> None:
    job, call = a_call(shared, tmp_path / "ran")
    assert planted(shared, job, call).result(15) == "ran"
    assert shared.broker.run(shared.broker.transitions.delete(job)) == "ok"
    with pytest.raises(JobNotFound):
        planted(shared, job, call).result(15)
    assert (tmp_path / "ran").read_text() == "ran\n"


def test_a_worker_refuses_what_it_completed_though_the_broker_was_made_to_forget(
    shared: Rig, tmp_path: Path
) -> None:
    job, call = a_call(shared, tmp_path / "ran")
    assert planted(shared, job, call).result(15) == "ran"
    assert shared.broker.run(shared.broker.transitions.delete(job)) == "ok"
    shared.broker.execute(
        "DEL", *shared.broker.execute("KEYS", shared.broker.keys.of("spent", "target") + ":*")
    )
    with pytest.raises(JobRefused, match="replayed"):
        planted(shared, job, call).result(15)
    assert (tmp_path / "ran").read_text() == "ran\n"


def test_a_replay_while_the_job_is_kept_changes_nothing(shared: Rig, tmp_path: Path) -> None:
    job, call = a_call(shared, tmp_path / "ran")
    assert planted(shared, job, call).result(15) == "ran"
    assert planted(shared, job, call).result(15) == "ran"
    assert (tmp_path / "ran").read_text() == "ran\n"


def test_an_outcome_of_another_job_is_not_believed(shared: Rig, tmp_path: Path) -> None:
    first, second = target.spawn(str(tmp_path / "a")), target.spawn(str(tmp_path / "b"))
    first.result(15)
    second.result(15)
    keys = shared.broker.keys
    other = shared.broker.execute("HGET", keys.of("job", second.id), "fq_outcome")
    shared.broker.execute("HSET", keys.of("job", first.id), "fq_outcome", other)
    again: EndpointJob[Any] = EndpointJob(shared.client, Call(first.id, "target", first._call.digest))
    shared.client.waiting.add(again._call)
    shared.client.waiting.watch([first.id])
    with pytest.raises(EnvelopeError):
        again.result(15)


def test_a_forged_revision_is_not_loaded(tmp_path: Path) -> None:
    with rig() as made:
        made.register(target)
        revision = made.client.registration(target).revision
        key = made.broker.keys.of("revision", "target", revision)
        made.broker.execute("SET", key, flipped(bytes(made.broker.execute("GET", key))))
        worker = made.worker(target.name)
        assert worker.wait() == 4
        assert "does not match" in worker.log.read_text()


def test_a_hash_of_the_wrong_type_and_an_id_of_nothing_are_passed_over(shared: Rig, tmp_path: Path) -> None:
    keys = shared.broker.keys
    shared.broker.execute("RPUSH", keys.of("queue", "target"), "target-nothing", "target-list")
    shared.broker.execute("RPUSH", keys.of("job", "target-list"), "x")
    assert target.remote(str(tmp_path / "ran")) == "ran"
    with contextlib.suppress(JobNotFound):
        wait_until(lambda: shared.broker.execute("LLEN", keys.of("queue", "target")) == 0)


def test_forged_rings_are_passed_over(shared: Rig, tmp_path: Path) -> None:
    """Given whatever a stranger pushes onto an idle worker's bell, expect the worker to be there afterwards."""
    worker, keys = shared.workers[0], shared.broker.keys
    _, call = a_call(shared, tmp_path / "forged")
    row = [b"target-x", b"1", call, b"r", b"0", b"1", b"0", b"0", b"0", b"0"]
    framed = b"".join(b"%d:%s" % (len(value), value) for value in row)
    claims = [b"-3:", b"", b"1:x", framed.replace(b"1:0", b"3:inf"), framed]
    others = [b"", b"\xff" * 50, b"cancel:", b"cancel:\xff", b"cancel:" + b"x" * 10_000]
    for ring in [*(b"claim:" + claim for claim in claims), *others]:
        wait_until(lambda: shared.worker_field(worker.id, "fq_state") == "idle")
        shared.broker.execute("RPUSH", keys.of("bell", worker.id), ring)
        wait_until(lambda: shared.broker.execute("LLEN", keys.of("bell", worker.id)) == 0)
        assert target.remote(str(tmp_path / "ran")) == "ran"
    assert worker.process.poll() is None
    assert not (tmp_path / "forged").exists()


def test_a_call_put_back_after_its_job_was_deleted_is_refused_by_another_worker_too(tmp_path: Path) -> None:
    """Given a completed call whose job was deleted and whose worker is gone, expect the next worker to refuse it."""
    with rig() as made:
        first = made.ready_worker(target)
        job, call = a_call(made, tmp_path / "ran")
        assert planted(made, job, call).result(15) == "ran"
        waiting = target.spawn(str(tmp_path / "other"))
        copy = made.broker.execute("HGETALL", made.broker.keys.of("job", waiting.id))
        assert waiting.result(15) == "ran"
        assert made.broker.run(made.broker.transitions.delete(job)) == "ok"
        first.close()

        fields = dict(zip(copy[::2], copy[1::2], strict=True)) | {
            b"fq_state": b"queued",
            b"status": b"queued",
        }
        fields |= {b"fq_call": call, b"fq_fence": b"0", b"fq_attempts": b"0"}
        flat = [part for pair in fields.items() for part in pair]
        made.broker.execute("HSET", made.broker.keys.of("job", job), *flat)
        made.broker.execute("RPUSH", made.broker.keys.of("queue", "target"), job)
        made.worker(target)

        wait_until(lambda: made.job_field(job, "fq_state") == "failed")
        assert "completed or deleted before" in made.job_field(job, "fq_error")
        assert (tmp_path / "ran").read_text() == "ran\n"
