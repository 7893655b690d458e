//! With the right to (root, or CAP_NET_ADMIN), in a network namespace of its own,
//! so that the host's network is left alone.

use std::net::{Ipv4Addr, UdpSocket};
use std::process::Command;
use std::time::Duration;

use nix::sched::{CloneFlags, unshare};

use super::super::announce::{announcement, gratuitous_arp};
use super::super::packet::{MacAddress, ether_type};
use super::*;

const GUEST: MacAddress = MacAddress([2, 0, 0, 0, 0, 0x15]);
const GUEST_ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 15);

/// Runs `test` in a fresh network namespace, or says loudly that it cannot.
fn in_a_namespace(test: impl AsyncFnOnce() + Send) {
    // Only the thread that this runs on changes its namespace.
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            let why = match unshare(CloneFlags::CLONE_NEWNET) {
                Err(errno) => Some(format!("no network namespace: {errno}")),
                Ok(()) if !Path::new(TUN_DEVICE).exists() => Some(format!("no {TUN_DEVICE}")),
                Ok(()) if !ip("link set lo up") => Some("no `ip` command".to_owned()),
                Ok(()) => None,
            };
            if let Some(why) = why {
                eprintln!("SKIPPED: TAP is not tested here: {why}");
                return;
            }
            let mut runtime = tokio::runtime::Builder::new_current_thread();
            let runtime = runtime.enable_all().build().expect("a runtime");
            let limit = Duration::from_secs(20);
            runtime.block_on(async {
                tokio::time::timeout(limit, test())
                    .await
                    .expect("done in time");
            });
        });
        if let Err(panic) = thread.join() {
            std::panic::resume_unwind(panic);
        }
    });
}

fn ip(arguments: &str) -> bool {
    let mut command = Command::new("ip");
    let output = command.args(arguments.split(' ')).output();
    output.is_ok_and(|output| output.status.success())
}

#[test]
fn frames_cross_a_tap_interface_and_an_announcement_teaches_the_host() {
    in_a_namespace(async || {
        assert!(
            ip("tuntap add dev ftvm0 mode tap"),
            "a persistent interface"
        );
        let tap = Tap::open("ftvm0").expect("root may");
        assert_eq!(tap.name(), "ftvm0");
        let error = tap
            .send(&announcement(GUEST))
            .await
            .expect_err("it is down");
        assert!(
            error.to_string().contains("ip link set ftvm0 up"),
            "{error}"
        );
        let error = Tap::open("ftvm0").expect_err("only one may attach");
        assert!(matches!(error, TapError::Busy { .. }), "{error}");

        assert!(ip("addr add 10.77.0.1/24 dev ftvm0") && ip("link set ftvm0 up"));
        tap.send(&announcement(GUEST)).await.expect("it is up");
        let socket = UdpSocket::bind("10.77.0.1:0").expect("the host's address");
        let target = (GUEST_ADDRESS, 9);
        socket
            .send_to(b"to the guest", target)
            .expect("the host asks for the guest first");
        let mut buf = vec![0; MAX_FRAME_LEN];
        loop {
            let len = tap.recv(&mut buf).await.expect("the host's frames");
            let frame = &buf[..len];
            match ether_type(frame) {
                // Who has the guest's address? The gratuitous ARP tells.
                Some([0x08, 0x06]) => {
                    let reply = gratuitous_arp(GUEST, GUEST_ADDRESS);
                    tap.send(&reply).await.expect("it is up");
                }
                Some([0x08, 0x00]) if frame.ends_with(b"to the guest") => break,
                // The host's own chatter (IPv6 neighbours).
                _ => {}
            }
        }
    });
}

#[test]
fn an_interface_that_does_not_exist_is_created_and_vanishes() {
    in_a_namespace(async || {
        let tap = Tap::open("ftvm1").expect("root may");
        assert!(ip("link set ftvm1 up"));
        drop(tap);
        assert!(!ip("link show ftvm1"));
    });
}

#[test]
fn what_is_no_tap_interface_is_named() {
    in_a_namespace(async || {
        let error = Tap::open("lo").expect_err("the loopback is none");
        assert!(matches!(error, TapError::OtherKind { .. }), "{error}");
    });
}

#[test]
fn a_bad_name_and_a_missing_device_are_named() {
    for name in [
        "",
        ".",
        "..",
        "a b",
        "a/b",
        "a\0b",
        "an-interface-name",
        "taß",
    ] {
        assert!(
            matches!(Tap::open(name), Err(TapError::Name(_))),
            "{name:?}"
        );
    }
    let error = Tap::open_through(Path::new("/nowhere/tun"), "tap0").expect_err("no device");
    assert!(error.to_string().contains("modprobe tun"), "{error}");
}
