"""The configuration: what is read, what is refused, and how that is said."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import pytest

from loracore import toml
from loracore.config import (
    Config,
    Dedupe,
    Pipeline,
    Watch,
    describe_changes,
    find_config,
    load_config,
    located,
    reloaded,
    with_options,
)
from loracore.errors import ConfigError, UsageError
from loracore.settings import host_port, mode

EXAMPLE = Path(__file__).parents[2] / "systemd" / "lorad.toml"


@pytest.fixture(autouse=True)
def _no_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("LORAD_CONFIG", "STATE_DIRECTORY", "RUNTIME_DIRECTORY", "XDG_RUNTIME_DIR", "XDG_STATE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "xdg"))
    monkeypatch.setenv("HOME", "/home/somebody")


def written(folder: Path, text: str | bytes) -> str:
    path = folder / "lorad.toml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return str(path)


def problems(folder: Path, text: str | bytes) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load_config(written(folder, text))
    path = str(folder / "lorad.toml")
    assert str(caught.value).splitlines() == [f"{path}: {problem}" for problem in caught.value.problems]
    return list(caught.value.problems)


def test_example_says_the_defaults_and_names_every_key() -> None:
    """`systemd/lorad.toml` installed as it is changes nothing, and hides no setting."""
    assert load_config(str(EXAMPLE)) == Config()
    said = [
        (table, key)
        for table, values in {"": None, **toml.read(str(EXAMPLE))}.items()
        for key in (values if isinstance(values, dict) else ())
    ]
    top = [("", key) for key, value in toml.read(str(EXAMPLE)).items() if not isinstance(value, dict)]
    assert top + said == list(toml.keys(Config))


def test_every_key_of_the_example_is_explained() -> None:
    """Above each key, or above the one before it, stands a comment."""
    lines = EXAMPLE.read_text().splitlines()
    for number, line in enumerate(lines):
        if re.match(r"\w+ = ", line):
            assert lines[number - 1].startswith("#"), line


def test_all_settings_are_read(tmp_path: Path) -> None:
    """What the file says is what the daemon gets; whole numbers serve as seconds; `~` is a home folder."""
    config = load_config(
        written(
            tmp_path,
            """
            state_dir = "/var/lib/somewhere/"
            [watch]
            roots = ["/srv/models", "~/loras"]
            follow_symlinks = true
            exclude = ["*.old", "training/*/tmp"]
            settle_seconds = 2
            [dedupe]
            action = "symlink"
            levels = ["tensors"]
            keep = ["path-prefix:~/best/", "newest"]
            scope = ["/srv/models/new/"]
            min_age = 60
            sidecars = "move"
            [pipeline]
            loaders = 3
            hasher = "cpu"
            memory_limit_mb = 0
            [control]
            socket_mode = "600"
            tcp = "[::1]:5570"
            [metrics]
            listen = "127.0.0.1:9570"
            """,
        )
    )
    assert config.state_dir == "/var/lib/somewhere"
    assert config.watch.roots == ("/srv/models", "/home/somebody/loras")
    assert config.watch.follow_symlinks
    assert config.watch.exclude == ("*.old", "training/*/tmp")
    assert config.watch.settle_seconds == 2.0
    keep = ("path-prefix:/home/somebody/best", "newest")
    assert config.dedupe == Dedupe("symlink", ("tensors",), keep, ("/srv/models/new",), 60.0, "move")
    assert config.pipeline == Pipeline(loaders=3, hasher="cpu", memory_limit_mb=0)
    assert config.control.tcp == "[::1]:5570"
    assert config.metrics.listen == "127.0.0.1:9570"
    assert config.watch.quiet_seconds == Watch().quiet_seconds


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("[watch]\nrootz = []", "[watch] rootz: no such key; did you mean roots?"),
        ("[wacth]\nroots = []", "[wacth]: no such table; did you mean [watch]?"),
        ("state_dri = ''", "state_dri: no such key; did you mean state_dir?"),
        ("zzz = 1", "zzz: no such key"),
        ('[watch]\n"a\\u001b[31m" = 1', r"[watch] a\x1b[31m: no such key"),
        ("[watch]\nstate_dir = '/x'", "[watch] state_dir: no such key; it belongs above the first table"),
        ("roots = ['/x']", "roots: no such key; it belongs in [watch]"),
        ("watch = 1", "watch: expected the table [watch], not 1"),
        ("[watch]\nroots = '/x'", '[watch] roots: expected a list, such as ["one", "two"], not "/x"'),
        (
            "[watch]\nroots = ['/a', 'b']",
            '[watch] roots, item 2: expected an absolute folder without "..", '
            'such as "/srv/models" or "~/models", not "b"',
        ),
        ("[watch]\nfollow_symlinks = 1", "[watch] follow_symlinks: expected true or false, not 1"),
        (
            "[watch]\nsettle_seconds = 0",
            "[watch] settle_seconds: expected a number of seconds above 0 and at most a year, not 0",
        ),
        ("[pipeline]\nloaders = 17", "[pipeline] loaders: expected 0 to 16, not 17"),
        ("[pipeline]\nloaders = true", "[pipeline] loaders: expected 0 to 16, not true"),
        ("[pipeline]\nhasher = 'gpu'", '[pipeline] hasher: expected "auto", "cpu" or "cuda", not "gpu"'),
        (
            "[pipeline]\nmemory_limit_mb = -1",
            "[pipeline] memory_limit_mb: expected 0 for none, or at least 64, not -1",
        ),
        (
            "[control]\nsocket_mode = 432",
            '[control] socket_mode: expected an octal mode in quotes, such as "0660", not 432',
        ),
        (
            "[watch]\nexclude = ['/srv/old']",
            '[watch] exclude, item 1: expected a pattern of names such as "*.old", one of paths below a root '
            'such as "old/*", or "!default" in front, not "/srv/old"',
        ),
        (
            "[watch]\nexclude = ['a', '!default']",
            '[watch] exclude: "!default" puts the list in the place of the default: write it first in it',
        ),
        ("[watch]\nroots = ['/a', '/a/']", "[watch] roots: /a is named twice"),
        (
            "[watch]\nroots = ['/a/b', '/a']",
            "[watch] roots: /a/b lies inside /a and is watched with it: leave it out",
        ),
        (
            "[control]\ntcp = '127.0.0.1:9570'\n[metrics]\nlisten = '127.0.0.1:9570'",
            "[metrics] listen: 127.0.0.1:9570 is [control] tcp already: use another port",
        ),
        (
            "[dedupe]\naction = 'link'",
            '[dedupe] action: expected "report", "reflink", "hardlink", "symlink", "quarantine" or "delete", '
            'not "link"',
        ),
        (
            "[dedupe]\nlevels = ['file', 'weights']",
            '[dedupe] levels, item 2: expected "file" or "tensors", not "weights"',
        ),
        ("[dedupe]\nlevels = []", '[dedupe] levels: name at least one, such as ["file"]'),
        (
            "[dedupe]\naction = 'hardlink'\nlevels = ['tensors']",
            '[dedupe] levels: hardlink is for files that are equal byte for byte: add "file", '
            'or set action to "symlink", "quarantine" or "delete"',
        ),
        (
            "[dedupe]\nkeep = ['oldest', 'path-prefix:here']",
            '[dedupe] keep, item 2: expected "final-name", "most-metadata", "oldest", "newest", "shortest-path" '
            'or "path-prefix:/a/folder", not "path-prefix:here"',
        ),
        (
            "[dedupe]\nscope = ['/a/b', '/ab']\n[watch]\nroots = ['/a']",
            "[dedupe] scope: /ab lies in no root of [watch]: name a root, or a folder below one",
        ),
        ("[dedupe]\nmin_age = -1", "[dedupe] min_age: expected 0, or a number of seconds up to a year, not -1"),
        ("[dedupe]\nsidecars = true", '[dedupe] sidecars: expected "keep" or "move", not true'),
        ("[watch]\nroots = [", "end of document: Invalid value"),
        ("[watch]\n\nroots = no", "line 3, column 9: Invalid value"),
        (b"# gr\xfcn\n[watch]", "line 1: not UTF-8"),
        ("a = " + "[" * 100_000, "nested too deeply"),
    ],
)
def test_a_mistake_is_named_with_what_is_right(tmp_path: Path, text: str | bytes, problem: str) -> None:
    """One line a problem: the file, the key's full name, what was expected, what was meant."""
    assert problems(tmp_path, text) == [problem]


@pytest.mark.parametrize(
    ("table", "key", "value"),
    [
        *(("watch", f"{name}_seconds", value)
          for name in ("settle", "quiet", "rescan", "poll", "canary")
          for value in ("-1", "nan", "inf", "1e12", '"1"', "true")),
        *(("pipeline", "loaders", value) for value in ("-1", "1.5", '"2"', "9" * 5000)),
        *(("control", "socket_mode", value) for value in ('"0990"', '"rw"', '"0060"', '"07777"', '""')),
        *(("metrics", "listen", value)
          for value in ('":9570"', '"127.0.0.1"', '"127.0.0.1:0"', '"127.0.0.1:65536"', '"a b:1"', '"::1:80"')),
        *(("dedupe", "keep", value)
          for value in ('["path-prefix:"]', '["path-prefix:/a/../b"]', '["Oldest"]', '["oldest:/a"]')),
        *(("dedupe", "min_age", value) for value in ("nan", "inf", "1e9", '"1"')),
        ("dedupe", "scope", '["models"]'),
        ("dedupe", "scope", '"/models"'),
        ("dedupe", "action", '""'),
        ("control", "tcp", '"tcp://127.0.0.1:5570"'),
        ("control", "socket_group", '"a group"'),
        ("control", "keys_dir", '"keys"'),
        ("watch", "roots", '["/a/../b"]'),
        ("watch", "roots", '["/a\\u0000"]'),
        ("watch", "roots", '["~nobody-has-this-name/x"]'),
        ("watch", "roots", "[1]"),
        ("watch", "roots", '[""]'),
    ],
)  # fmt: skip
def test_values_out_of_range_are_refused(tmp_path: Path, table: str, key: str, value: str) -> None:
    """Nothing that would only fail later gets through."""
    (problem,) = problems(tmp_path, f"[{table}]\n{key} = {value}")
    assert f"[{table}] {key}" in problem or "limit" in problem


def test_roots_of_the_command_line_may_be_a_scope(tmp_path: Path) -> None:
    """A file without roots cannot know which there will be."""
    assert load_config(written(tmp_path, "[dedupe]\nscope = ['/m']")).dedupe.scope == ("/m",)


def test_all_problems_are_named_at_once(tmp_path: Path) -> None:
    """A file is mended in one go."""
    found = problems(
        tmp_path, "x = 1\n[watch]\nrootz = []\npoll_seconds = 0\n[pipeline]\nhasher = 1\nloaders = -1"
    )
    assert len(found) == 5


@pytest.mark.parametrize("kind", ["folder", "missing", "fifo", "large", "nul"])
def test_what_is_not_a_configuration_is_refused_by_name(tmp_path: Path, kind: str) -> None:
    """Neither a wait for a FIFO nor a model file in memory."""
    path: Any = tmp_path / "it"
    if kind == "folder":
        path.mkdir()
    elif kind == "fifo":
        os.mkfifo(path)
    elif kind == "large":
        with path.open("wb") as file:
            file.truncate(1 << 40)
    elif kind == "nul":
        path = f"{path}\0"
    with pytest.raises(UsageError, match="it"):
        load_config(str(path))


def test_where_the_file_is_looked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The option, LORAD_CONFIG, the system's, the user's; the defaults without any."""
    system = tmp_path / "etc" / "lorad.toml"
    user = tmp_path / "xdg" / "lorad" / "lorad.toml"
    assert find_config(system=str(system)) is None
    assert load_config(system=str(system)) == Config()
    user.parent.mkdir(parents=True)
    user.write_text("[pipeline]\nloaders = 1\n")
    assert find_config(system=str(system)) == str(user)
    assert load_config(system=str(system)).pipeline.loaders == 1
    system.parent.mkdir()
    system.write_text("")
    assert find_config(system=str(system)) == str(system)
    monkeypatch.setenv("LORAD_CONFIG", "/somewhere")
    assert find_config(system=str(system)) == "/somewhere"
    assert find_config("/given", system=str(system)) == "/given"


def test_a_named_file_must_exist(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A slip in LORAD_CONFIG does not start a daemon with the defaults."""
    monkeypatch.setenv("LORAD_CONFIG", str(tmp_path / "nothing"))
    with pytest.raises(ConfigError, match="No such file"):
        load_config()


def test_options_add_roots_and_replace_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`--watch` adds to the file's roots; what lies in another one, or is given twice, is watched once."""
    monkeypatch.chdir(tmp_path)
    config = Config(state_dir="/s", watch=Watch(roots=("/m/inner", "/n")))
    config = with_options(config, watch=["here", "/m", "/m/", "/n/deep"], runtime_dir="run")
    assert config.watch.roots == ("/n", str(tmp_path / "here"), "/m")
    assert (config.state_dir, config.runtime_dir) == ("/s", str(tmp_path / "run"))
    assert with_options(Config(), watch=["/", "/m"]).watch.roots == ("/",)


def test_folders_come_from_the_service_manager_or_the_user(monkeypatch: pytest.MonkeyPatch) -> None:
    """Under systemd the folders that it made; by hand the user's; what the file says goes first."""
    config = located(Config())
    assert config.state_dir == "/home/somebody/.local/state/lorad"
    assert config.control.keys_dir == "/home/somebody/.local/state/lorad/keys"
    monkeypatch.setenv("STATE_DIRECTORY", "/var/lib/lorad:/var/lib/other")
    monkeypatch.setenv("RUNTIME_DIRECTORY", "/run/lorad")
    config = located(Config())
    assert (config.state_dir, config.runtime_dir) == ("/var/lib/lorad", "/run/lorad")
    assert located(Config(state_dir="/s", runtime_dir="/r")).state_dir == "/s"


def test_changes_say_which_need_a_restart() -> None:
    """What can be swapped while running is swapped; the rest stays, and is said again at the next reload."""
    old = Config(state_dir="/a")
    new = Config(
        state_dir="/b",
        watch=Watch(roots=("/m", "/bad\udcff\n"), follow_symlinks=True),
        pipeline=Pipeline(loaders=2, memory_limit_mb=512),
    )
    assert [str(change) for change in describe_changes(old, new)] == [
        'state_dir: "/a" -> "/b", at the next start',
        r'[watch] roots: [] -> ["/m", "/bad\xff\n"]',
        "[watch] follow_symlinks: false -> true",
        "[pipeline] loaders: 0 -> 2, at the next start",
        "[pipeline] memory_limit_mb: 2048 -> 512",
    ]
    running = reloaded(old, new)
    assert all(not change.restart for change in describe_changes(old, running))
    assert all(change.restart for change in describe_changes(running, new))
    assert describe_changes(new, new) == ()


def test_every_setting_is_either_swapped_or_kept() -> None:
    """`reloaded` and `describe_changes` agree about each key."""
    other = Config(
        state_dir="/o",
        runtime_dir="/o",
        watch=Watch(("/o",), True, ("o",), 9, 9, 9, 9, 9),
        dedupe=Dedupe("delete", ("file",), ("newest",), ("/o",), 9, "move", "9d", "9%"),
        pipeline=Pipeline(9, "cpu", 64, 99),
        control=type(Config().control)("0600", "o", "o:1", "/o"),
        hashes=type(Config().hashes)(True),
        jobs=type(Config().jobs)(9, 999),
        metrics=type(Config().metrics)("o:1"),
    )
    changes = describe_changes(Config(), other)
    assert len(changes) == len(list(toml.keys(Config)))
    kept = {change.name for change in describe_changes(reloaded(Config(), other), other)}
    assert kept == {change.name for change in changes if change.restart}


def test_texts_of_settings_have_one_meaning() -> None:
    """Modes are octal; a port follows the last colon; IPv6 stands in brackets."""
    assert mode("0660") == mode("660") == 0o660
    assert host_port("[2001:db8::1]:80") == ("2001:db8::1", 80)
    assert host_port("node-1.example:5570") == ("node-1.example", 5570)
