//! The real thing: TAP interfaces, a bridge, and a client that has nothing but the kernel's TCP.

use std::sync::Arc;

use crate::ENOUGH;
use crate::harness::{Clients, Lab, Manner, World};

/// FAIL-7: the bridge learns where the guest is now, and the client's one connection goes on.
#[test]
fn live_1_over_tap_and_bridge_the_kernels_tcp_connection_outlives_the_primary() {
    let Some(lab) = Lab::build() else { return };
    let world = World::over_taps(1, &lab);
    let (mut primary, mut backup) = world.pair();
    let steady = [Manner::Steady, Manner::Steady, Manner::Pipelined(4)];
    let clients = Clients::over(Arc::new(lab.dial()), &steady);
    clients.wait_for(ENOUGH);
    primary.kill();
    backup.wait_for_state("ALONE");
    clients.wait_for(ENOUGH);
    clients.finish();

    let redis_cli = lab
        .client_program("redis-cli")
        .args(["-h", "10.0.2.15", "PING"])
        .output();
    let redis_cli = redis_cli.expect("ip netns exec runs");
    if redis_cli.status.success() {
        assert_eq!(String::from_utf8_lossy(&redis_cli.stdout).trim(), "PONG");
    } else {
        eprintln!("SKIPPED: redis-cli is not installed: {redis_cli:?}");
    }
    world.stop(&mut backup);
}
