"""DRAIN HOST: a host taken out of use by its operator."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.conformance.world import World


def test_a_drained_host_is_on_record_until_it_is_used_again(world: World) -> None:
    assert world.run(world.t.host_drain("h-1", drained=True, why="fans")) == "unknown"
    world.run(world.t.host_beat("h-1", lease_ms=1000, fields={}))
    world.redis.delete(world.keys.of("wake"))
    drained_at = world.now_ms

    assert world.run(world.t.host_drain("h-1", drained=True, why="fans")) == "ok"
    assert world.resent == "ok"
    assert world.redis.llen(world.keys.of("wake")) == 1
    world.pass_ms(10)
    assert world.run(world.t.host_drain("h-1", drained=True, why="another reason")) == "ok"
    assert world.redis.hgetall(world.keys.of("drains")) == {b"h-1": b"%d fans" % drained_at}

    # If its agent leaves and another comes, expect it to be drained still
    world.run(world.t.host_leave("h-1"))
    world.run(world.t.host_beat("h-1", lease_ms=1000, fields={}))
    assert world.redis.hexists(world.keys.of("drains"), "h-1")

    assert world.run(world.t.host_drain("h-1", drained=False)) == "ok"
    assert world.resent == "ok"
    assert not world.redis.exists(world.keys.of("drains"))
    assert world.run(world.t.host_drain("nobody", drained=False)) == "unknown"
