//! The Linux images boot on a machine that is not ftvm's: QEMU's microvm, which has the same devices.
//! Without QEMU, or packages to build from, nothing is tested, and that is said.

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::AtomicBool;
use std::sync::mpsc::{self, Receiver};
use std::time::{Duration, Instant};

use guest_images::linux::{BuildOptions, Built, Cache, Image, Job};

/// How long the guest may take until it says something: minutes, on a busy host.
const PATIENCE: Duration = Duration::from_secs(180);

/// The image, built if need be; `None` if that cannot be done here.
fn image(name: &str) -> Option<Image> {
    if Command::new(QEMU).arg("--version").output().is_err() {
        eprintln!("SKIPPED: there is no {QEMU}");
        return None;
    }
    let interrupted = AtomicBool::new(false);
    let mut job = Job {
        progress: &mut |_| {},
        interrupted: &interrupted,
    };
    let built =
        Cache::open(None).and_then(|cache| cache.build(name, &BuildOptions::default(), &mut job));
    match built {
        Ok(Built::Already(image) | Built::New(image)) => Some(image),
        Err(error) => {
            eprintln!("SKIPPED: {name} cannot be built: {error}");
            None
        }
    }
}

const QEMU: &str = "qemu-system-x86_64";

/// A booted image. Its serial port is QEMU's standard input and output.
struct Machine {
    qemu: Child,
    monitor: UnixListener,
    pieces: Receiver<Vec<u8>>,
    said: String,
}

impl Machine {
    /// Boots `image`, with files in `dir` and its port 6379 at `forward` of this host.
    fn boot(image: &Image, dir: &Path, disk: Option<&Path>, forward: u16) -> Self {
        let monitor = dir.join("monitor");
        let _ = fs::remove_file(&monitor);
        let listener = UnixListener::bind(&monitor).expect("a socket");
        let manifest = &image.manifest;
        let mut qemu = Command::new(QEMU);
        qemu.args(["-M", "microvm,acpi=on,rtc=on,pit=on,pic=on,isa-serial=on"])
            // Its time is a count of instructions: Linux calibrates its clocks right on a busy host.
            .args(["-accel", "tcg", "-cpu", "qemu64", "-icount", "shift=1"])
            .arg("-no-reboot")
            .args(["-nodefaults", "-no-user-config", "-display", "none"])
            .args(["-m", &manifest.memory_mib.to_string()])
            .args(["-append", &manifest.command_line])
            .arg("-kernel")
            .arg(image.kernel())
            .arg("-initrd")
            .arg(image.initrd())
            .args(["-serial", "stdio", "-qmp"])
            .arg(format!("unix:{}", monitor.display()))
            .arg("-netdev")
            .arg(format!(
                "user,id=net,hostfwd=tcp:127.0.0.1:{forward}-10.0.2.15:6379"
            ))
            .args(["-device", "virtio-net-device,netdev=net"])
            .args(["-device", "virtio-rng-device"]);
        if let Some(disk) = disk {
            qemu.arg("-drive")
                .arg(format!(
                    "file={},if=none,id=disk,format=raw",
                    disk.display()
                ))
                .args(["-device", "virtio-blk-device,drive=disk"]);
        }
        let mut qemu = qemu
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("QEMU starts");
        let mut out = qemu.stdout.take().expect("piped");
        let (sender, pieces) = mpsc::channel();
        std::thread::spawn(move || {
            let mut piece = [0; 4096];
            while let Ok(len @ 1..) = out.read(&mut piece) {
                if sender.send(piece[..len].to_vec()).is_err() {
                    return;
                }
            }
        });
        Machine {
            qemu,
            monitor: listener,
            pieces,
            said: String::new(),
        }
    }

    /// Waits until the guest has said `text`, and forgets what it said up to there.
    fn wait_for(&mut self, text: &str) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(at) = self.said.find(text) {
                self.said.drain(..at + text.len());
                return;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            match self.pieces.recv_timeout(left) {
                Ok(piece) => self.said += &String::from_utf8_lossy(&piece),
                Err(error) => panic!("no {text:?} ({error}) in {}", self.said),
            }
        }
    }

    fn types(&mut self, line: &str) {
        let input = self.qemu.stdin.as_mut().expect("piped");
        input.write_all(line.as_bytes()).expect("typed");
        input.flush().expect("typed");
    }

    /// Presses the power button. The guest has spoken: QEMU's monitor is there.
    fn switch_off_in_order(mut self) {
        let (mut monitor, _) = self.monitor.accept().expect("QEMU is connected");
        for command in ["qmp_capabilities", "system_powerdown"] {
            writeln!(monitor, "{{\"execute\":\"{command}\"}}").expect("sent");
        }
        self.wait_for("switching off");
        self.wait_for("reboot: Power down");
        assert!(self.qemu.wait().expect("it ends").success());
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        let _ = self.qemu.kill();
        let _ = self.qemu.wait();
    }
}

/// A port that is free now.
fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    listener.local_addr().expect("bound").port()
}

#[test]
fn busybox_has_a_prompt_and_is_switched_off_by_the_power_button() {
    let Some(image) = image("busybox") else {
        return;
    };
    let dir = tempfile::tempdir().expect("a directory");
    let mut machine = Machine::boot(&image, dir.path(), None, free_port());
    machine.wait_for("/ # ");
    machine.types("echo $((6 * 7)) && ls /sys/class/net\n");
    machine.wait_for("\n42\r\n");
    machine.wait_for("eth0");
    machine.switch_off_in_order();
}

#[test]
fn debian_gives_a_login_shell() {
    let Some(image) = image("debian") else {
        return;
    };
    let dir = tempfile::tempdir().expect("a directory");
    let mut machine = Machine::boot(&image, dir.path(), None, free_port());
    machine.wait_for("root@debian:~# ");
    machine.types("shopt -q login_shell && echo user $(id -un) on $(tty)\n");
    machine.wait_for("user root on /dev/ttyS0");
    machine.switch_off_in_order();
}

/// Sends Redis a command and returns its answer's first line.
fn redis(port: u16, command: &str) -> String {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).expect("QEMU forwards");
    stream.set_read_timeout(Some(PATIENCE)).expect("set");
    write!(stream, "{command}\r\n").expect("sent");
    let mut answer = String::new();
    let mut reader = BufReader::new(stream);
    reader.read_line(&mut answer).expect("an answer");
    answer.trim_end().to_owned()
}

/// What was counted before the machine was switched off is still counted when it is on again.
#[test]
fn redis_keeps_its_data_on_its_disk() {
    let Some(image) = image("redis") else {
        return;
    };
    let dir = tempfile::tempdir().expect("a directory");
    let disk = dir.path().join("disk");
    fs::copy(image.disk().expect("it has one"), &disk).expect("copied");
    for boot in 1..=2 {
        let port = free_port();
        let mut machine = Machine::boot(&image, dir.path(), Some(&disk), port);
        machine.wait_for("Ready to accept connections");
        assert_eq!(redis(port, "PING"), "+PONG");
        assert_eq!(redis(port, "INCR boots"), format!(":{boot}"));
        machine.switch_off_in_order();
    }
}
