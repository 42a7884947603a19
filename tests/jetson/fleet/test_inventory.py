"""Tests of reading inventories: options, rings, and errors."""

from __future__ import annotations

from pathlib import Path

import pytest

from edge.core.errors import InputError

pytest.importorskip("asyncssh", reason="asyncssh is not installed: pip install 'aerogaze[flash]'")
from jetson.fleet.inventory import RolloutPolicy, load_inventory


def write_toml(folder: Path, text: str) -> Path:
    path = folder / "fleet.toml"
    path.write_text(text)
    return path


def test_host_options_override_the_defaults(tmp_path: Path) -> None:
    fleet = load_inventory(
        write_toml(
            tmp_path,
            """
            [defaults]
            sudo = true
            identity = "keys/fleet"
            known-hosts = "~/known"
            [rollout]
            at-once = 8
            [hosts]
            "pilot@drone-1.local" = {}
            drone-2 = { address = "pilot@10.0.0.2:2222", sudo = false, root = "/data", no-autopilot = true }
            "boards/3" = { policy = "closest", trust = "/etc/k.pub" }
            """,
        )
    )
    first, second, third = fleet.hosts.values()
    assert list(fleet.hosts) == ["pilot@drone-1.local", "drone-2", "boards/3"]
    assert (first.sudo, first.identity, first.known_hosts) == (
        True,
        tmp_path / "keys/fleet",
        Path.home() / "known",
    )
    assert first.login
    assert (first.login.host, first.login.identity) == ("drone-1.local", tmp_path / "keys/fleet")
    assert (second.sudo, second.root, second.no_autopilot) == (False, Path("/data"), True)
    assert second.login
    assert second.login.port == 2222
    assert third.login is None
    assert third.address == str(tmp_path / "boards/3")
    assert (third.policy, third.trust) == ("closest", Path("/etc/k.pub"))
    assert fleet.policy == RolloutPolicy(at_once=8)
    assert [len(ring.hosts) for ring in fleet.rings] == [1, 1, 1]


def test_rings_take_numbers_shares_and_the_rest(tmp_path: Path) -> None:
    hosts = "[hosts]\n" + "\n".join(f'"pilot@d{n}" = {{}}' for n in range(40))
    text = f"""
        [[rings]]
        hosts = 2
        [[rings]]
        hosts = "12.5%"
        success = "80%"
        error = "30%"
        [[rings]]
        hosts = "all"
        {hosts}"""
    rings = load_inventory(write_toml(tmp_path, text)).rings
    assert [len(ring.hosts) for ring in rings] == [2, 5, 33]
    assert [(ring.success, ring.error) for ring in rings] == [(0.9, 0.1), (0.8, 0.3), (0.9, 0.1)]


def test_name_without_a_user_is_a_folder_only_if_it_exists_or_is_said_to_be_one(tmp_path: Path) -> None:
    (tmp_path / "d1").mkdir()
    text = "[hosts]\nd1 = {}\n'./d2' = {}\nd3 = { folder = true }\nd4 = { address = 'boards/4' }"
    hosts = load_inventory(write_toml(tmp_path, text)).hosts.values()
    assert [host.address for host in hosts] == [
        str(tmp_path / name) for name in ("d1", "d2", "d3", "boards/4")
    ]
    assert all(host.login is None for host in hosts)
    for mistyped in ("d5 = {}", "drone = { address = 'd5.local' }"):
        with pytest.raises(InputError, match=r"'d5\S*' is neither a board nor an existing folder"):
            load_inventory(write_toml(tmp_path, f"[hosts]\n{mistyped}"))


def test_mistyped_host_is_refused_even_if_the_working_directory_has_a_folder_of_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "elsewhere" / "d1").mkdir(parents=True)
    path = write_toml(tmp_path, "[hosts]\nd1 = {}")
    monkeypatch.chdir(tmp_path / "elsewhere")
    with pytest.raises(InputError, match="'d1' is neither a board nor an existing folder"):
        load_inventory(path)


HOST = '[hosts]\n"pilot@d1" = {}\n'


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("hosts = [", "is not valid TOML"),
        ("", "names no hosts; expected a table [hosts]"),
        ("[hosts]", "names no hosts"),
        (
            "colour = 1\n" + HOST,
            "the inventory has an unknown key 'colour'; expected some of defaults, hosts",
        ),
        ('[hosts]\n"pilot@d1" = 1', "host 'pilot@d1' is 1; expected a table of options"),
        ("[hosts]\nd1 = { port = 22 }", "host 'd1' has an unknown key 'port'; expected some of address"),
        ("[hosts]\nd1 = { sudo = 'yes' }", "host 'd1': sudo is 'yes'; expected true or false"),
        ("[hosts]\nd1 = { root = 7 }", "host 'd1': root is 7; expected text"),
        ("[hosts]\nd1 = { identity = '' }", "identity is ''; expected text"),
        ("[hosts]\n'' = {}", "the name of a host is ''; expected a name such as drone-7"),
        ("[hosts]\n' ' = { address = 'pilot@d1' }", "the name of a host is ' '"),
        ("[hosts]\n'pilot@d1' = { policy = 'best' }", "policy 'best'; expected 'fastest within"),
        ("[defaults]\npolicy = 'best'\n" + HOST, "policy 'best'; expected 'fastest within"),
        ("[defaults]\naddress = 'pilot@d1'\n" + HOST, "[defaults] has an unknown key 'address'"),
        ("[hosts]\n'pilot@d1@x' = {}", "'pilot@d1@x' is neither a board nor an existing folder; expected"),
        ("[hosts]\n'pilot@d1:0' = {}", "port 0 does not exist"),
        ("[hosts]\n'b/1' = {}\n'b/./1' = {}", "'b/./1' and 'b/1' are the same board: name it once"),
        ("[hosts]\n'pilot@d1' = {}\n'root@d1' = {}", "'root@d1' and 'pilot@d1' are the same board"),
        ("[rollout]\nat-once = 0\n" + HOST, "at-once is 0; expected a whole number, 1 to 1024"),
        ("[rollout]\ntries = 2.5\n" + HOST, "tries is 2.5; expected a whole number"),
        ("[rollout]\nlimit-s = true\n" + HOST, "limit-s is True; expected a number"),
        ("[rollout]\nbackoff-s = nan\n" + HOST, "backoff-s is nan; expected a number"),
        ("rings = []\n" + HOST, "rings is []; expected [[rings]]"),
        ("rings = [1]\n" + HOST, "ring 1 is 1; expected a table"),
        ("[[rings]]\n" + HOST, "ring 1 has hosts = None; expected a number"),
        ("[[rings]]\nhosts = '0%'\n" + HOST, "ring 1 has hosts = '0%'"),
        ("[[rings]]\nhosts = '120%'\n" + HOST, "'120%'; expected a share"),
        ("[[rings]]\nhosts = 1\nerror = 5\n" + HOST, 'ring 1: error is 5; expected a share such as "10%"'),
        (
            "[[rings]]\nhosts = 1\n" + HOST + "'pilot@d2' = {}",
            '1 hosts are in no ring; add a last ring with hosts = "all"',
        ),
    ],
)
def test_invalid_inventory_is_reported(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(InputError) as error:
        load_inventory(write_toml(tmp_path, text))
    assert message in str(error.value)
    assert "fleet.toml" in str(error.value)


def test_missing_inventory_is_reported(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"cannot read .*none\.toml: No such file"):
        load_inventory(tmp_path / "none.toml")
