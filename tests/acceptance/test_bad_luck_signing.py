"""What is not signed, or not for this, is neither run nor believed: keys that differ, and records forged in the broker.

The forger here can write whatever it likes into the broker, and has no signing key.
"""

from __future__ import annotations

import hashlib
import os
import pickle
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cloudpickle
import msgpack
import pytest

from flashq import Endpoint, EndpointJob, FlashqError, Status
from flashq.client import Client, use_client
from flashq.errors import JobRefused
from flashq.model.keyring import Keyring
from flashq.settings import SecretKey, Settings
from tests.acceptance.stage import Stage, stage
from tests.rig import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

pytestmark = [pytest.mark.requires("valkey"), pytest.mark.timeout(40)]

OTHER_SECRET = bytes(range(100, 132))


@Endpoint(name="signed", cpu="any")
def act(what: str, *args: Any) -> Any:
    match what:
        case "pid":
            return os.getpid()
        case "touch":
            Path(args[0]).touch()
    return args[0] if args else None


@Endpoint(name="signed-other", cpu="any")
def other(what: str, *args: Any) -> str:
    if what == "touch":
        Path(args[0]).with_suffix(".other").touch()
    return "other"


@Endpoint(name="signed-held", cpu="any")
def held(gate: str) -> str:
    import time

    while not Path(gate).exists():
        time.sleep(0.01)
    return "let go"


@Endpoint(name="signed-waiting", cpu="any")
def waiting(number: int) -> int:
    return number


@Endpoint(name="signed-copied", cpu="any")
def copied(number: int) -> int:
    return number


@pytest.fixture(scope="module")
def theatre() -> Iterator[Stage]:
    with stage() as made:
        made.ready_worker(act)
        made.ready_worker(other)
        made.ready_worker(held)
        made.register(waiting)
        yield made


class Evil:
    """Unpickled, it leaves a mark: then a forged payload was trusted."""

    def __init__(self, mark: Path) -> None:
        self._mark = mark

    def __reduce__(self) -> Any:
        return (open, (str(self._mark), "w"))


@pytest.fixture
def mark(tmp_path: Path) -> Path:
    return tmp_path / "forged"


def with_evil_payload(call: bytes, mark: Path) -> bytes:
    """The call with another payload under the old signature."""
    header, _, signature = msgpack.unpackb(call)
    return bytes(msgpack.packb([header, pickle.dumps(((Evil(mark),), {})), signature]))


def unsigned(call: bytes, mark: Path) -> bytes:
    """The same with digest and length put right, and no signature."""
    header, _, _ = msgpack.unpackb(call)
    return bytes(msgpack.packb([_redigested(header, mark), _evil(mark), b""]))


def signed_with_zeros(call: bytes, mark: Path) -> bytes:
    header, _, signature = msgpack.unpackb(call)
    return bytes(msgpack.packb([_redigested(header, mark), _evil(mark), bytes(len(signature))]))


def with_algorithm_none(call: bytes, mark: Path) -> bytes:
    header, _, _ = msgpack.unpackb(call)
    fields = msgpack.unpackb(_redigested(header, mark))
    fields["alg"] = "none"
    return bytes(msgpack.packb([msgpack.packb(fields), _evil(mark), b""]))


def truncated(call: bytes, mark: Path) -> bytes:
    return call[: len(call) // 2]


def flipped_in_the_header(call: bytes, mark: Path) -> bytes:
    return call[:20] + bytes([call[20] ^ 1]) + call[21:]


def flipped_in_the_signature(call: bytes, mark: Path) -> bytes:
    return call[:-1] + bytes([call[-1] ^ 1])


def nothing(call: bytes, mark: Path) -> bytes:
    return b""


def a_bare_pickle(call: bytes, mark: Path) -> bytes:
    return pickle.dumps(Evil(mark))


def hostile_msgpack(call: bytes, mark: Path) -> bytes:
    return b"\xdd\xff\xff\xff\xff" + b"\x91" * 5000


def deep_msgpack(call: bytes, mark: Path) -> bytes:
    return b"\x91" * 100_000


def an_extension_type(call: bytes, mark: Path) -> bytes:
    return bytes(msgpack.packb([msgpack.ExtType(5, b"x"), b"", b""]))


def _evil(mark: Path) -> bytes:
    return pickle.dumps(((Evil(mark),), {}))


def _redigested(header: bytes, mark: Path) -> bytes:
    fields = msgpack.unpackb(header)
    fields |= {"len": len(_evil(mark)), "dig": hashlib.sha256(_evil(mark)).digest()}
    return bytes(msgpack.packb(fields))


FORGERIES: list[Callable[[bytes, Path], bytes]] = [
    with_evil_payload,
    unsigned,
    signed_with_zeros,
    with_algorithm_none,
    truncated,
    flipped_in_the_header,
    flipped_in_the_signature,
    nothing,
    a_bare_pickle,
    hostile_msgpack,
    deep_msgpack,
    an_extension_type,
]


def job_hash(theatre: Stage, job: str) -> dict[bytes, bytes]:
    fields = theatre.broker.execute("HGETALL", theatre.broker.keys.of("job", job))
    return dict(zip(fields[::2], fields[1::2], strict=True))


def call_of(theatre: Stage, job: EndpointJob[Any]) -> bytes:
    """The signed call of a job that waits."""
    return job_hash(theatre, job.id)[b"fq_call"]


def plant(theatre: Stage, endpoint: str, call: bytes, like: str) -> str:
    """Put a forged job into an endpoint's queue, its hash copied from a real one's; its id."""
    job = f"{endpoint}-{uuid.uuid4()}"
    fields = job_hash(theatre, like)
    fields |= {b"fq_call": call, b"fq_ep": endpoint.encode(), b"origin": endpoint.encode(), b"fq_watch": b""}
    fields[b"fq_rev"] = theatre.endpoint_field(endpoint, "revision").encode()
    flat = [part for pair in fields.items() for part in pair]
    theatre.broker.execute("HSET", theatre.broker.keys.of("job", job), *flat)
    theatre.broker.execute("RPUSH", theatre.broker.keys.of("queue", endpoint), job)
    return job


@pytest.fixture
def real(theatre: Stage) -> Iterator[EndpointJob[int]]:
    """A real job in a queue that nobody serves: what a forger can copy from."""
    job = waiting.spawn(1)
    yield job
    job.cancel().result()


@pytest.fixture
def pids(theatre: Stage) -> Iterator[None]:
    """The workers and the executor have to be the same ones at the end."""
    before = act.remote("pid")
    yield
    assert act.spawn("pid").result(15) == before
    assert all(worker.process.poll() is None for worker in theatre.workers)


def behind_the_held_worker(theatre: Stage, gate: Path) -> tuple[EndpointJob[str], EndpointJob[str]]:
    """One job that runs until `gate` is there, and one in the queue behind it."""
    first, second = held.spawn(str(gate)), held.spawn(str(gate))
    wait_until(lambda: first.status().result() is Status.IN_PROGRESS, what="the first runs")
    return first, second


@pytest.mark.parametrize("forge", FORGERIES, ids=lambda forge: forge.__name__)
def test_a_forged_call_is_refused_and_its_payload_never_unpickled(
    theatre: Stage, real: EndpointJob[int], pids: None, mark: Path, forge: Callable[[bytes, Path], bytes]
) -> None:
    # Given a job in the queue of a living worker, with a forged call
    job = plant(theatre, "signed", forge(call_of(theatre, real), mark), real.id)

    # If the worker comes to it, expect it to be refused, and ended as failed with a reason; the next one to run
    assert act.spawn("echo", "next").result(15) == "next"
    wait_until(lambda: theatre.state(job) not in ("queued", "claimed", "running"), what="it was dealt with")
    assert theatre.state(job) == "failed"
    reason = theatre.job_field(job, "fq_error") or theatre.job_field(job, "fq_reason")
    assert reason

    # Expect its payload not to have been touched, and nothing of a key in the worker's log
    assert not mark.exists()
    log = theatre.workers[0].log.read_text()
    assert bytes(range(32)).hex() not in log


def test_a_waiting_callers_tampered_call_is_told(
    theatre: Stage, tmp_path: Path, pids: None, mark: Path
) -> None:
    # Given a call in the queue behind another, which somebody changes in the broker
    gate = tmp_path / "gate"
    first, second = behind_the_held_worker(theatre, gate)
    key = theatre.broker.keys.of("job", second.id)
    theatre.broker.execute("HSET", key, "fq_call", with_evil_payload(call_of(theatre, second), mark))

    # If the worker comes to it, expect its caller to be told that it was refused
    gate.touch()
    assert first.result(10) == "let go"
    with pytest.raises(JobRefused):
        second.result(15)
    assert not mark.exists()


def test_a_real_call_under_another_jobs_id_is_refused(theatre: Stage, pids: None) -> None:
    # Given a real, signed call that waits, and a copy of it under another id behind it
    real = copied.spawn(1)
    job = plant(theatre, "signed-copied", call_of(theatre, real), real.id)

    # If a worker comes to them, expect the copy to be refused, and the real one to run
    theatre.worker(copied)
    assert real.result(15) == 1
    wait_until(lambda: theatre.state(job) not in ("queued", "claimed", "running"), what="it was dealt with")
    assert theatre.state(job) == "failed"
    theatre.workers.pop().close()


def test_a_real_call_on_another_endpoint_is_refused(theatre: Stage, tmp_path: Path, pids: None) -> None:
    # Given a real call of one endpoint, waiting, moved into the queue of another, with its own id
    gate, mark = tmp_path / "gate", tmp_path / "mark"
    first, second = behind_the_held_worker(theatre, gate)
    fields = job_hash(theatre, second.id)
    theatre.broker.execute("LREM", theatre.broker.keys.of("queue", "signed-held"), 0, second.id)
    key = theatre.broker.keys.of("job", second.id)
    revision = theatre.endpoint_field("signed-other", "revision")
    theatre.broker.execute("HSET", key, "fq_ep", "signed-other", "origin", "signed-other", "fq_rev", revision)
    theatre.broker.execute("RPUSH", theatre.broker.keys.of("queue", "signed-other"), second.id)

    # If that endpoint's worker comes to it, expect it to be refused
    wait_until(lambda: theatre.state(second.id) not in ("queued", "claimed", "running"), what="dealt with")
    assert theatre.state(second.id) == "failed"
    assert fields[b"fq_call"]
    gate.touch()
    first.result(10)
    assert not mark.with_suffix(".other").exists()


def test_a_call_replayed_after_its_end_is_not_run_again(theatre: Stage, tmp_path: Path, pids: None) -> None:
    # Given a call that was copied while it waited, ran to its end, and was deleted
    gate = tmp_path / "gate"
    first, second = behind_the_held_worker(theatre, gate)
    copy = job_hash(theatre, second.id)
    gate.touch()
    assert (first.result(10), second.result(10)) == ("let go", "let go")
    gate.unlink()
    theatre.broker.run(theatre.broker.transitions.delete(second.id))

    # If the copy is written back as it was
    flat = [part for pair in copy.items() for part in pair]
    theatre.broker.execute("HSET", theatre.broker.keys.of("job", second.id), *flat)
    theatre.broker.execute("RPUSH", theatre.broker.keys.of("queue", "signed-held"), second.id)

    # Expect it to be refused: it would otherwise run now, holding for its gate
    try:
        wait_until(lambda: theatre.state(second.id) == "failed", 5, "it was refused")
    finally:
        gate.touch()


def test_code_of_another_endpoint_is_refused(theatre: Stage, tmp_path: Path, pids: None) -> None:
    # Given a fresh endpoint, whose revision somebody replaces in the broker by another endpoint's signed one
    @Endpoint(name="signed-swapped", cpu="any")
    def swapped(what: str, path: str) -> str:
        return "mine"

    theatre.register(swapped)
    revision = theatre.endpoint_field("signed-swapped", "revision")
    foreign = theatre.endpoint_field("signed-other", "revision")
    source = theatre.broker.keys.of("revision", f"signed-other:{foreign}")
    target = theatre.broker.keys.of("revision", f"signed-swapped:{revision}")
    assert theatre.broker.execute("COPY", source, target, "REPLACE") == 1

    # If a worker starts and a call comes, expect the foreign code not to run
    theatre.worker("signed-swapped")
    job = swapped.spawn("touch", str(tmp_path / "mark"))
    worker = theatre.workers[-1]
    wait_until(lambda: job.done or worker.process.poll() is not None, 20, "refused")
    assert not (tmp_path / "mark.other").exists()
    assert job.output is None
    theatre.workers.pop().close()


def test_tampered_code_is_refused_and_never_unpickled(theatre: Stage, mark: Path, pids: None) -> None:
    # Given an endpoint whose code somebody changes in the broker
    @Endpoint(name="signed-code", cpu="any")
    def fresh() -> str:
        return "mine"

    theatre.register(fresh)
    key = theatre.broker.keys.of(
        "revision", f"signed-code:{theatre.endpoint_field('signed-code', 'revision')}"
    )
    kind = theatre.broker.execute("TYPE", key)
    assert kind in (b"hash", b"string", "hash", "string")
    if kind in (b"hash", "hash"):
        fields = theatre.broker.execute("HGETALL", key)
        name, record = max(zip(fields[::2], fields[1::2], strict=True), key=lambda pair: len(pair[1]))
        theatre.broker.execute("HSET", key, name, _tampered_record(record, mark))
    else:
        theatre.broker.execute("SET", key, _tampered_record(theatre.broker.execute("GET", key), mark))

    # If a worker starts for a call, expect it to refuse, with nothing of it unpickled
    theatre.worker("signed-code")
    job = fresh.spawn()
    worker = theatre.workers[-1]
    wait_until(lambda: job.done or worker.process.poll() is not None, 20, "refused")
    assert not mark.exists()
    assert job.output is None
    theatre.workers.pop().close()


def _tampered_record(record: bytes, mark: Path) -> bytes:
    """The record with evil code in it, under its old signature."""
    header, _, signature = msgpack.unpackb(record)
    evil = cloudpickle.dumps(Evil(mark))
    fields = msgpack.unpackb(header)
    fields |= {"len": len(evil), "dig": hashlib.sha256(evil).digest()}
    return bytes(msgpack.packb([msgpack.packb(fields), evil, signature]))


@pytest.mark.parametrize("how", ["flipped", "swapped", "a call", "unsigned"])
def test_a_forged_outcome_is_not_believed(
    theatre: Stage, mark: Path, tmp_path: Path, how: str, pids: None
) -> None:
    # Given a job of a client that is not looking yet, completed; and another one's outcome and call
    donor = act.with_options(key=f"donor-{how}").spawn("echo", "of the donor")
    assert donor.result(10) == "of the donor"
    donated = job_hash(theatre, donor.id)[b"fq_outcome"]
    key = f"victim-{how}"
    said = theatre.run(VICTIM, key, str(tmp_path / "gate"), serve="signed-victim")
    assert said["value"] == "of the victim"
    victim = theatre.broker.keys.of("job", said["id"])
    real = theatre.broker.execute("HGET", victim, "fq_outcome")

    # If its outcome is replaced in the broker
    header, payload, signature = msgpack.unpackb(real)
    forged = {
        "flipped": msgpack.packb([header, payload[:-3] + b"XX.", signature]),
        "swapped": donated,
        "a call": with_evil_payload(donated, mark),
        "unsigned": msgpack.packb([_redigested(header, mark), _evil(mark), b""]),
    }[how]
    theatre.broker.execute("HSET", victim, "fq_outcome", forged)

    # If its caller asks for it again by its key, expect an error of flashq's, never the forged value
    program = theatre.start(VICTIM, key, str(tmp_path / "gate"))
    said = program.end()
    assert "value" not in said
    assert said["flashq"], said
    assert not mark.exists()


VICTIM = """
from flashq import Endpoint, FlashqError

@Endpoint(name="signed-victim", cpu="any")
def work():
    return "of the victim"

job = work.with_options(key=sys.argv[1]).spawn()
tell(id=job.id)
try:
    tell(value=job.result(20))
except Exception as error:
    tell(flashq=isinstance(error, FlashqError), kind=type(error).__name__, text=str(error))
"""


def test_a_forged_push_is_not_believed(theatre: Stage, real: EndpointJob[int], mark: Path) -> None:
    # Given a job that waits, and the channel on which its caller hears of its end
    channel = job_hash(theatre, real.id)[b"fq_watch"]

    # If somebody publishes nonsense and forged endings on it
    for message in (
        b"",
        b"nonsense",
        b"\xff" * 100,
        pickle.dumps(Evil(mark)),
        msgpack.packb([real.id, "finished", 1, "", True, _evil(mark)]),
        msgpack.packb([real.id.encode(), b"finished", 1, b"", 1, unsigned(call_of(theatre, real), mark)]),
    ):
        theatre.broker.execute("PUBLISH", channel, message)

    # Expect nothing forged to be unpickled or returned, and this client to go on
    assert act.spawn("echo", "alive").result(15) == "alive"
    assert not mark.exists()
    assert real.output is None


def other_client(theatre: Stage, secret: SecretKey | None, **changes: Any) -> Client:
    settings = {"redis_url": theatre.server.url, "secret_key": secret, "home": theatre.home, "lease_s": 2.0}
    return Client(Settings(**{**settings, **changes}))


@pytest.fixture
def different_key(theatre: Stage) -> Iterator[None]:
    """This process's calls are signed with another key than the workers know."""
    client = other_client(theatre, SecretKey(OTHER_SECRET))
    before = use_client(client)
    yield
    use_client(before)
    client.close()


def test_a_different_key_is_told_to_the_caller(theatre: Stage, pids: None, different_key: None) -> None:
    # If a program signs with another key than the worker knows, expect its call to be refused in finite time
    job = act.spawn("pid")
    with pytest.raises((JobRefused, FlashqError)) as raised:
        job.result(20)

    # Expect the words to lead to the key, and to show none
    assert "key" in str(raised.value).lower() or "sign" in str(raised.value).lower()
    assert OTHER_SECRET.hex() not in str(raised.value)


def test_a_different_key_on_the_worker_is_told_to_the_caller(theatre: Stage) -> None:
    # Given a worker that has another key than its callers
    @Endpoint(name="signed-otherwise", cpu="any")
    def otherwise() -> int:
        return 1

    job = otherwise.spawn()
    theatre.worker(otherwise, keys=Keyring([OTHER_SECRET]).for_endpoint("signed-otherwise"))
    worker = theatre.workers[-1]

    # If it starts, expect it not to run the call; what it says leads to the key
    wait_until(lambda: job.done or worker.process.poll() is not None, 20, "refused")
    assert job.output is None
    assert "key" in (str(job.error) + worker.log.read_text()).lower()
    theatre.workers.pop().close()


def test_another_namespace_is_another_deployment(theatre: Stage, pids: None, tmp_path: Path) -> None:
    # Given a program with the same key and broker, in another namespace
    client = other_client(theatre, SecretKey(bytes(range(32))), namespace="elsewhere")
    before = use_client(client)
    try:
        # If it calls, expect this namespace's worker not to run it
        job = act.spawn("touch", str(tmp_path / "mark"))
        wait_until(lambda: job.done or job.status().result() is not Status.IN_QUEUE, 20, "refused")
        with pytest.raises(FlashqError):
            job.result(10)
        assert not (tmp_path / "mark").exists()
    finally:
        use_client(before)
        client.close()


def test_no_key_or_a_short_one_is_refused_at_once(theatre: Stage) -> None:
    # Given programs with a broker configured and no good key
    source = """
        from flashq import Endpoint
        from flashq.errors import SettingsError

        @Endpoint(name="signed-keyless", cpu="any")
        def work(): ...

        begun = time.monotonic()
        try:
            work.spawn()
        except SettingsError as error:
            tell(error=str(error), took=time.monotonic() - begun)
        """
    values = [None, "", "short-key", "00" * 8]
    programs = [theatre.start(source, env={"FLASHQ_SECRET_KEY": value}) for value in values]

    # Expect a clear error at the first call, naming the setting and showing no key; and nothing registered
    for program, value in zip(programs, values, strict=True):
        said = program.end()
        assert "FLASHQ_SECRET_KEY" in said["error"]
        assert said["took"] < 5
        assert not value or value not in said["error"]
    assert theatre.endpoint_field("signed-keyless", "revision") == ""


def test_a_key_file_that_others_can_read_is_refused(theatre: Stage, tmp_path: Path) -> None:
    # Given a key file
    file = tmp_path / "key"
    file.write_text(bytes(range(32)).hex())
    source = """
        from flashq import Endpoint
        from flashq.errors import SettingsError

        @Endpoint(name="signed-file", cpu="any")
        def work():
            return 1

        try:
            tell(id=work.spawn().id)
        except SettingsError as error:
            tell(error=str(error))
        """
    env = {"FLASHQ_SECRET_KEY": None, "FLASHQ_SECRET_KEY_FILE": str(file)}

    # If only its owner can read it, expect it to serve; if others can, expect a refusal that says so
    file.chmod(0o600)
    assert "id" in theatre.run(source, env=env)
    file.chmod(0o644)
    assert str(file) in theatre.run(source, env=env)["error"]


def test_the_key_is_in_nothing_that_is_shown(theatre: Stage) -> None:
    # If what holds the key is printed, expect no key
    secret = bytes(range(32))
    for thing in (
        theatre.settings,
        theatre.client,
        theatre.keyring,
        SecretKey(secret),
        theatre.client.settings,
    ):
        shown = f"{thing!r} {thing}"
        assert secret.hex() not in shown
        assert repr(secret)[2:-1] not in shown


def test_no_key_is_in_the_broker_or_in_a_workers_argv_or_log(theatre: Stage) -> None:
    # If everything in the broker and about the workers is read, expect no key, as bytes or as hex
    theatre.broker.execute("CONFIG", "SET", "rdbcompression", "no")
    secrets = [bytes(range(32)), bytes(range(32)).hex().encode()]
    for endpoint in ("signed", "signed-other"):
        keys = Keyring([bytes(range(32))]).for_endpoint(endpoint).keys
        secrets += [key.secret for several in keys.values() for key in several]
    texts = [theatre.broker.execute("DUMP", key) or b"" for key in theatre.broker.execute("KEYS", "*")]
    for worker in theatre.workers:
        texts.append(Path(f"/proc/{worker.process.pid}/cmdline").read_bytes())
        texts.append(worker.log.read_bytes())
    assert not [text for text in texts for secret in secrets if secret in text]
