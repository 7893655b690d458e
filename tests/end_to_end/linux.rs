//! Debian's kernel, unmodified: recorded, replayed and protected.

use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use serde_json::Value;

use crate::harness::{Console, Process, World, no_image, protected};

/// Threads that keep every core of this host busy until they are dropped.
struct Busy {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Busy {
    fn host() -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let spin = |stop: Arc<AtomicBool>| {
            move || {
                while !stop.load(Ordering::Relaxed) {
                    std::hint::spin_loop();
                }
            }
        };
        let threads = (0..cores).map(|_| std::thread::spawn(spin(stop.clone())));
        Busy {
            threads: threads.collect(),
            stop,
        }
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

fn ftvm(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ftvm"));
    command.args(args);
    command
}

fn text(path: &Path) -> &str {
    path.to_str().expect("UTF-8")
}

/// Uses the shell of a busybox guest whose node listens on `control`, then presses the button that
/// switches the guest off in order.
fn use_and_switch_off(control: &Path) {
    let at = ["--control", text(control)];
    let mut console = Console::attach(ftvm(&[&["console"], &at[..]].concat()));
    console.wait_for("/ # ");
    // Not before somebody listens to the button.
    console.types(
        "until ls -l /proc/[0-9]*/fd 2>&1 | grep -q /dev/input/event; do :; done; echo re''ady\n",
    );
    console.wait_for("ready\r\n");
    let pressed = ftvm(&[&["control"], &at[..], &["power-button"]].concat()).status();
    assert!(pressed.expect("the program runs").success());
    console.wait_for("reboot: Power down");
}

/// Boots the image alone, with its log in `dir`.
fn record(dir: &Path, name: &str) {
    let control = dir.join(format!("{name}.sock"));
    let log = dir.join(name);
    let mut args = vec!["run", "--alone", "--json", "--guest", "busybox"];
    args.extend(["--cpu", "soft", "--listen", "127.0.0.1:0"]);
    args.extend(["--control", text(&control), "--log", text(&log)]);
    let mut node = Process::start(dir, name, ftvm(&args));
    node.wait_for_state("ALONE");
    use_and_switch_off(&control);
    assert!(node.wait().success(), "{}", node.stderr());
}

/// Replays a log, which must agree to its end.
fn replay(log: &Path) -> Value {
    let ran = ftvm(&["replay", text(log), "--json"]).output();
    let ran = ran.expect("the program runs");
    assert!(ran.status.success(), "{ran:?}");
    let summary: Value = serde_json::from_slice(&ran.stdout).expect("JSON");
    assert_eq!(summary["ended"], "off", "{summary}");
    assert!(summary["digests_checked"].as_u64() > Some(0), "{summary}");
    assert!(
        summary["interrupts_checked"].as_u64() > Some(0),
        "{summary}"
    );
    summary
}

/// What the host's load changes is in the log, and nothing else changes anything.
#[test]
fn det_1_linux_booted_on_a_quiet_and_on_a_busy_host_replays_the_other_way_round() {
    if no_image("busybox") {
        return;
    }
    let dir = tempfile::tempdir().expect("a directory");
    record(dir.path(), "quiet");
    let busy = Busy::host();
    record(dir.path(), "busy");
    let quiet = replay(&dir.path().join("quiet"));
    drop(busy);
    let busy = replay(&dir.path().join("busy"));
    assert_ne!(quiet["position"], busy["position"], "two runs of their own");
}

#[test]
fn det_5_a_protected_linux_is_in_step_from_its_first_instruction_to_its_power_off() {
    if no_image("busybox") {
        return;
    }
    let world = World::new(1);
    let guest = ["--guest", "busybox", "--cpu", "soft"];
    let mut primary = world.primary("node-a", &guest);
    let backup = world.backup("node-b", primary.address(), &guest);
    let (mut primary, mut backup) = protected(primary, backup);
    use_and_switch_off(&world.control("node-a"));
    for node in [&mut primary, &mut backup] {
        assert_eq!(node.last_word(), "the VM was stopped");
        assert!(node.wait().success(), "{}", node.stderr());
    }
    // It has checked every digest live, and would have halted at the first that differs.
    let [theirs, ours] = ["node-a", "node-b"].map(|name| replay(&world.log(name)));
    assert_eq!(theirs["digests_checked"], ours["digests_checked"]);
    assert_eq!(theirs["position"], ours["position"]);
}
