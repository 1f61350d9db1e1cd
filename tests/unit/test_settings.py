"""Settings: where they come from, what each may be, and that no secret shows."""

from __future__ import annotations

import base64
import os
import subprocess
import sys
from pathlib import Path
from urllib.parse import parse_qsl

import pytest

from flashq.errors import SettingsError
from flashq.settings import Settings, read_secret_key

KEY = bytes(range(100, 132))


def load(tmp_path: Path, **variables: str) -> Settings:
    return Settings.load({"FLASHQ_HOME": "/h", **variables}, tmp_path)


def key_file(tmp_path: Path, content: bytes, mode: int = 0o600) -> Path:
    file = tmp_path / "key"
    file.write_bytes(content)
    file.chmod(mode)
    return file


def test_nothing_set_means_embedded_with_the_platforms_folder(tmp_path: Path) -> None:
    settings = Settings.load({}, tmp_path)
    assert (settings.redis_url, settings.secret_key, settings.namespace) == (None, None, "default")
    assert (settings.payload_limit, settings.lease_s, settings.sources) == (64 * 2**20, 15.0, {})
    assert settings.home.is_absolute()
    assert settings.home.name == "flashq"
    assert settings.shown_redis_url is None


def test_the_environment_is_read(tmp_path: Path) -> None:
    settings = Settings.load(
        {
            "FLASHQ_REDIS_URL": "redis://localhost:6379/0",
            "FLASHQ_SECRET_KEY": KEY.hex(),
            "FLASHQ_HOME": "/var/lib/flashq",
            "FLASHQ_NAMESPACE": "team-a",
            "FLASHQ_PAYLOAD_LIMIT": "1048576",
            "FLASHQ_LEASE_S": "0.5",
            "PATH": "/bin",
        },
        tmp_path,
    )
    assert settings.redis_url == settings.shown_redis_url == "redis://localhost:6379/0"
    assert settings.require_secret_key() == KEY
    assert settings.require_secrets() == (KEY,)
    assert settings.home == Path("/var/lib/flashq")
    assert (settings.namespace, settings.payload_limit, settings.lease_s) == ("team-a", 2**20, 0.5)
    assert settings.sources["lease_s"] == "FLASHQ_LEASE_S"
    assert settings.sources["secret_key"] == "FLASHQ_SECRET_KEY"


def test_this_processes_environment_and_folder_are_the_default(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "pyproject.toml").write_text("[tool.flashq]\nlease_s = 7\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FLASHQ_NAMESPACE", "mine")
    assert (Settings.load().namespace, Settings.load().lease_s) == ("mine", 7.0)


def test_the_prefix_of_keys_is_rqs(tmp_path: Path) -> None:
    assert load(tmp_path).rq_prefix == "rq"
    assert load(tmp_path, RQ_KEY_PREFIX="{rq}").rq_prefix == "{rq}"


@pytest.mark.parametrize("prefix", ["r q", "rq\n", "rq*", "r?", "[rq]", "rq\0", "r\x1bq", "ü", "r" * 65])
def test_a_key_prefix_that_would_mean_something_elsewhere_is_refused(prefix: str, tmp_path: Path) -> None:
    """Given a prefix with blanks, patterns or control characters, expect an error that names the variable."""
    with pytest.raises(SettingsError, match="RQ_KEY_PREFIX"):
        load(tmp_path, RQ_KEY_PREFIX=prefix)


def test_an_empty_variable_counts_as_unset(tmp_path: Path) -> None:
    assert load(tmp_path, FLASHQ_REDIS_URL="", FLASHQ_LEASE_S="").lease_s == 15.0


def test_paths_may_be_relative_or_begin_at_the_users_home(tmp_path: Path) -> None:
    assert Settings.load({"FLASHQ_HOME": "state"}, tmp_path).home == tmp_path / "state"
    assert Settings.load({"FLASHQ_HOME": "~/state"}, tmp_path).home == Path.home() / "state"


# -- pyproject.toml ----------------------------------------------------------------------------------


def test_the_nearest_pyproject_is_read_and_the_environment_wins(tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text("[tool.flashq]\nnamespace = 'outer'\n")
    inner = tmp_path / "a" / "b"
    inner.mkdir(parents=True)
    file = tmp_path / "a" / "pyproject.toml"
    file.write_text(
        "[tool.flashq]\nlease_s = 3\npayload_limit = 2048\nhome = 'state'\nredis_url = 'unix:///s'\n"
    )
    settings = Settings.load({"FLASHQ_PAYLOAD_LIMIT": "4096"}, inner)
    assert (settings.namespace, settings.lease_s, settings.payload_limit) == ("default", 3.0, 4096)
    assert (settings.home, settings.redis_url) == (tmp_path / "a" / "state", "unix:///s")
    assert settings.sources["lease_s"] == f"lease_s in [tool.flashq] of {file}"


def test_labels_are_a_list_or_separated_by_commas(tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text(
        "[tool.flashq]\nlabels = ['zone=eu', 'b']\nenvironments_days = 2\n"
    )
    assert Settings.load({}, tmp_path).labels == ("zone=eu", "b")
    assert Settings.load({}, tmp_path).environments_days == 2.0
    assert Settings.load({"FLASHQ_LABELS": "zone=us, datacenter=EU-RO-1"}, tmp_path).labels == (
        "zone=us",
        "datacenter=EU-RO-1",
    )


def test_options_of_containers_are_a_list_or_written_as_on_a_command_line(tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text("[tool.flashq]\ncontainer_options = ['--network=host']\n")
    assert Settings.load({}, tmp_path).container_options == ("--network=host",)
    given = {"FLASHQ_CONTAINER_OPTIONS": "--dns 10.0.0.1 --label 'a b'", "FLASHQ_CONTAINER_ENGINE": "docker"}
    found = Settings.load(given, tmp_path)
    assert (found.container_engine, found.container_options) == (
        "docker",
        ("--dns", "10.0.0.1", "--label", "a b"),
    )


def test_a_pyproject_without_our_table_says_nothing(tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text("[project]\nname = 'x'\n")
    assert load(tmp_path).sources == {"home": "FLASHQ_HOME"}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[tool.flashq]\nsecret_key = 'x'", "secret_key in .*no place for a key"),
        ("[tool.flashq]\nlease = 3", r"lease in .*no such setting \(did you mean 'lease_s'"),
        ("[tool.flashq]\npayload_limit = '1 MB'", "payload_limit in .*whole number of bytes"),
        ("[tool.flashq]\nlease_s = true", "lease_s in .*must be a number"),
        ("[tool.flashq]\nnamespace = 3", r"namespace in .*\(3\): must be a string"),
        ("[tool]\nflashq = 3", "must be a table"),
        ("[tool.flashq", "pyproject.toml: "),
    ],
)
def test_a_wrong_pyproject_is_refused_by_key_and_file(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "pyproject.toml").write_text(text)
    with pytest.raises(SettingsError, match=said) as caught:
        load(tmp_path)
    assert str(tmp_path) in str(caught.value)


def test_a_key_file_may_be_named_in_pyproject_and_the_environments_key_wins(tmp_path: Path) -> None:
    key_file(tmp_path, KEY)
    (tmp_path / "pyproject.toml").write_text("[tool.flashq]\nsecret_key_file = 'key'\n")
    assert load(tmp_path).require_secret_key() == KEY
    assert load(tmp_path, FLASHQ_SECRET_KEY="x" * 32).require_secret_key() == b"x" * 32


# -- wrong variables ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("variable", "value", "said"),
    [
        ("FLASHQ_REDIS_URL", "localhost:6379", "must begin with redis://"),
        ("FLASHQ_REDIS_URL", "http://localhost", "must begin with redis://"),
        ("FLASHQ_REDIS_URL", "redis://", "names no host"),
        ("FLASHQ_REDIS_URL", "redis://:s3cret@", "names no host"),
        ("FLASHQ_REDIS_URL", "redis://:s3cret@h:port", "is not a URL"),
        ("FLASHQ_REDIS_URL", "redis://[::1", "is not a URL"),
        ("FLASHQ_REDIS_URL", "rediss://:s3cret@h/db", "number of a database"),
        ("FLASHQ_REDIS_URL", "unix://", "names no socket"),
        ("FLASHQ_REDIS_URL", "redis+sentinel://h:26379", "names no service"),
        ("FLASHQ_REDIS_URL", "redis+sentinel://:s3cret@h:x/mymaster", "names its sentinels wrongly"),
        ("FLASHQ_REDIS_URL", "redis+sentinel://h/mymaster/db", "number of a database"),
        ("FLASHQ_TLS_CA", "/does/not/exist", "cannot read /does/not/exist: No such file"),
        ("FLASHQ_ALLOW_PLAINTEXT", "maybe", "must be 1 or 0"),
        ("FLASHQ_SECRET_KEY", "s3cret", "at least 32 bytes, this one 6"),
        ("FLASHQ_SECRET_KEY", "ab" * 15, "at least 32 bytes, this one 30"),
        ("FLASHQ_SECRET_KEY_FILE", "/does/not/exist", "cannot read /does/not/exist: No such file"),
        ("FLASHQ_HOME", "/dev/null", "is not a folder"),
        ("FLASHQ_CONTAINER_ENGINE", "lxc", "must be podman or docker"),
        ("FLASHQ_CONTAINER_OPTIONS", "other:image", "must begin with an option"),
        ("FLASHQ_NAMESPACE", "a b", "must be at most 64 letters"),
        ("FLASHQ_NAMESPACE", "-a", "must be at most 64 letters"),
        ("FLASHQ_PAYLOAD_LIMIT", "64MiB", "must be a whole number of bytes"),
        ("FLASHQ_PAYLOAD_LIMIT", "1e6", "must be a whole number of bytes"),
        ("FLASHQ_PAYLOAD_LIMIT", "0", "must be at least 1024 bytes"),
        ("FLASHQ_PAYLOAD_LIMIT", str(2**40), "must be at most 536870912 bytes"),
        ("FLASHQ_LABELS", "zone=eu,a b", "no label"),
        ("FLASHQ_LABELS", "zone=eu,", "no label"),
        ("FLASHQ_ENVIRONMENTS_DAYS", "-1", "must be at least 0 days"),
        ("FLASHQ_ENVIRONMENTS_GIB", "many", "must be a number of GiB"),
        ("FLASHQ_LEASE_S", "0", "must be at least 0.1 seconds"),
        ("FLASHQ_LEASE_S", "nan", "must be a finite number"),
        ("FLASHQ_LEASE_S", "15s", "must be a number of seconds"),
        ("FLASHQ_REDIS_ULR", "redis://h", "did you mean FLASHQ_REDIS_URL"),
        ("FLASHQ_LEASE", "3", "did you mean FLASHQ_LEASE_S"),
    ],
)
def test_a_wrong_variable_is_refused_by_name_without_secrets(
    tmp_path: Path, variable: str, value: str, said: str
) -> None:
    with pytest.raises(SettingsError, match=said) as caught:
        load(tmp_path, **{variable: value})
    assert str(caught.value).startswith(variable)
    assert "s3cret" not in str(caught.value)


def test_variables_of_other_programs_are_left_alone(tmp_path: Path) -> None:
    assert load(tmp_path, FLASHQ_DASHBOARD_COLOUR="blue").sources == {"home": "FLASHQ_HOME"}


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://localhost", "redis://localhost"),
        ("redis://:s3cret@localhost:6379/2", "redis://:***@localhost:6379/2"),
        ("rediss://user:s3cret@h?db=1", "rediss://user:***@h?db=1"),
        ("redis://user@127.0.0.1", "redis://user@127.0.0.1"),
        ("redis://[::1]?password=s3cret&db=1", "redis://[::1]?password=***&db=1"),
        (
            "rediss+sentinel://u:s3cret@a,b/s?sentinel_password=s3cret",
            "rediss+sentinel://u:***@a,b/s?sentinel_password=***",
        ),
        ("unix://user:s3cret@/run/v.sock", "unix://user:***@/run/v.sock"),
        (" unix:///run/v.sock ", "unix:///run/v.sock"),
    ],
)
def test_the_brokers_password_is_masked(tmp_path: Path, url: str, shown: str) -> None:
    settings = load(tmp_path, FLASHQ_REDIS_URL=url)
    assert settings.redis_url == url.strip()
    assert settings.shown_redis_url == shown
    assert "s3cret" not in repr(settings)


# -- what may be read on its way ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("redis://:s3cret@broker.example:6379", "unencrypted to broker.example"),
        ("redis://10.0.0.5", "unencrypted to 10.0.0.5"),
        ("redis://[fd00::5]", "unencrypted to fd00::5"),
        ("redis://127.0.0.1.example.org", "unencrypted to 127.0.0.1.example.org"),
        ("redis+sentinel://127.0.0.1:26379/main", "unencrypted to the servers that its sentinels name"),
        ("rediss://broker.example?ssl_cert_reqs=none", "broker.example would not be verified"),
        ("rediss://broker.example?ssl_check_hostname=False", "broker.example would not be verified"),
    ],
)
def test_a_broker_elsewhere_without_verified_tls_needs_a_word(tmp_path: Path, url: str, said: str) -> None:
    with pytest.raises(SettingsError, match=said) as caught:
        load(tmp_path, FLASHQ_REDIS_URL=url)
    assert str(caught.value).startswith("FLASHQ_REDIS_URL")
    assert "FLASHQ_ALLOW_PLAINTEXT=1" in str(caught.value)
    assert "s3cret" not in str(caught.value)

    allowed = load(tmp_path, FLASHQ_REDIS_URL=url, FLASHQ_ALLOW_PLAINTEXT="1")
    assert (allowed.redis_url, allowed.allow_plaintext) == (url, True)
    with pytest.raises(SettingsError, match=said):
        load(tmp_path, FLASHQ_REDIS_URL=url, FLASHQ_ALLOW_PLAINTEXT="no")


@pytest.mark.parametrize(
    "url",
    [
        "redis://127.8.0.1",
        "redis://LOCALHOST:6380",
        "redis://broker.localhost",
        "redis://[::1]:6379/0",
        "unix:///run/v.sock",
        "rediss://broker.example",
        "rediss+sentinel://a,b:1/main/0",
    ],
)
def test_what_stays_here_or_is_verified_needs_none(tmp_path: Path, url: str) -> None:
    assert load(tmp_path, FLASHQ_REDIS_URL=url).redis_url == url


def test_the_files_for_tls_become_part_of_the_address(tmp_path: Path) -> None:
    for name in ("ca", "cert", "key"):
        (tmp_path / name).write_text("x")
    (tmp_path / "pyproject.toml").write_text("[tool.flashq]\ntls_ca = 'ca'\n")
    given = {"FLASHQ_TLS_CERT": str(tmp_path / "cert"), "FLASHQ_TLS_KEY": str(tmp_path / "key")}
    settings = load(tmp_path, FLASHQ_REDIS_URL="rediss://h:1/0?ssl_keyfile=/mine", **given)
    assert settings.redis_url is not None
    query = dict(parse_qsl(settings.redis_url.partition("?")[2]))
    # What the address itself says comes first.
    assert query == {
        "ssl_ca_certs": f"{tmp_path}/ca",
        "ssl_certfile": f"{tmp_path}/cert",
        "ssl_keyfile": "/mine",
    }
    assert load(tmp_path).redis_url is None  # the private broker needs none
    with pytest.raises(SettingsError, match=r"tls_ca in .*: for a broker with TLS"):
        load(tmp_path, FLASHQ_REDIS_URL="redis://localhost")


# -- the signing key ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("written", "key"),
    [
        (KEY.hex(), KEY),
        (KEY.hex().upper() + "\n", KEY),
        (base64.b64encode(KEY).decode(), KEY),
        (base64.b64encode(b"\xff" * 33).decode().rstrip("="), b"\xff" * 33),
        (base64.urlsafe_b64encode(b"\xff" * 32).decode(), b"\xff" * 32),
        ("correct horse battery staple and more", b"correct horse battery staple and more"),
        ("x" * 32, b"x" * 32),
        (KEY.hex().encode() + b"\n", KEY),
        (b"\xff" * 32, b"\xff" * 32),
        (b"\xff" * 31 + b"\n", b"\xff" * 31 + b"\n"),
    ],
)
def test_a_key_is_hex_base64_or_stands_for_itself(written: str | bytes, key: bytes) -> None:
    assert read_secret_key(written).value == key


@pytest.mark.parametrize(
    "written", ["", " " * 40, "ab" * 15, base64.b64encode(b"x" * 20).decode(), b"\xff" * 31]
)
def test_a_short_key_is_refused(written: str | bytes) -> None:
    with pytest.raises(ValueError, match="at least 32 bytes"):
        read_secret_key(written)


@pytest.mark.parametrize("content", [KEY.hex().encode() + b"\n", base64.b64encode(KEY), b"\xff" + KEY])
def test_a_key_file_is_read(tmp_path: Path, content: bytes) -> None:
    file = key_file(tmp_path, content, 0o400)
    assert len(load(tmp_path, FLASHQ_SECRET_KEY_FILE=str(file)).require_secret_key()) >= 32


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o604, 0o620, 0o601])
def test_a_key_file_that_others_may_use_is_refused(tmp_path: Path, mode: int) -> None:
    file = key_file(tmp_path, KEY, mode)
    with pytest.raises(SettingsError, match=f"FLASHQ_SECRET_KEY_FILE.*chmod 600 {file}"):
        load(tmp_path, FLASHQ_SECRET_KEY_FILE=str(file))


def test_a_key_file_must_be_a_file_and_long_enough(tmp_path: Path) -> None:
    os.mkfifo(pipe := tmp_path / "pipe", 0o600)
    for file, said in [(pipe, "not a regular file"), (tmp_path, "not a regular file|directory")]:
        with pytest.raises(SettingsError, match=said):
            load(tmp_path, FLASHQ_SECRET_KEY_FILE=str(file))
    with pytest.raises(SettingsError, match="at least 32 bytes, this one 3"):
        load(tmp_path, FLASHQ_SECRET_KEY_FILE=str(key_file(tmp_path, b"abc\n")))


def test_several_keys_verify_and_the_first_signs(tmp_path: Path) -> None:
    other = bytes(range(32))
    file = key_file(tmp_path, f"{KEY.hex()}  # signs\n{other.hex()}\n".encode())
    for given in (
        {"FLASHQ_SECRET_KEY_FILE": str(file)},
        {"FLASHQ_SECRET_KEY": f"{KEY.hex()}, {other.hex()}"},
    ):
        settings = load(tmp_path, **given)
        assert settings.require_secrets() == (KEY, other)
        assert settings.require_secret_key() == KEY
        assert settings.secret_key_file == (file if "FLASHQ_SECRET_KEY_FILE" in given else None)
    with pytest.raises(SettingsError, match=r"FLASHQ_SECRET_KEY: line 2: .* at least 32 bytes"):
        load(tmp_path, FLASHQ_SECRET_KEY=f"{KEY.hex()},s3cret")


def test_the_key_is_given_once(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="both set"):
        load(tmp_path, FLASHQ_SECRET_KEY=KEY.hex(), FLASHQ_SECRET_KEY_FILE="/x")


def test_a_missing_key_is_said_where_it_is_needed(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="FLASHQ_SECRET_KEY or FLASHQ_SECRET_KEY_FILE"):
        load(tmp_path).require_secret_key()


def test_a_key_never_shows(tmp_path: Path) -> None:
    settings = load(tmp_path, FLASHQ_SECRET_KEY="s3cret" * 6)
    assert "s3cret" not in repr(settings) + repr(settings.secret_key) + str(settings.secret_key)


def test_loading_imports_nothing_heavy(tmp_path: Path) -> None:
    load = "from flashq.settings import Settings; Settings.load({'FLASHQ_HOME': '/h'})"
    code = f"import sys; {load}; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True, cwd=tmp_path
    )
    assert not {"pydantic", "platformdirs", "difflib", "redis", "cloudpickle"} & set(done.stdout.split())
