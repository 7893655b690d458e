//! The vCPU thread, and the queues between it and the node's loop.
//!
//! ```text
//!                 orders: entries, frames, commands
//!   node's loop ────────────────────────────────────▶ vCPU thread
//!               ◀────────────────────────────────────
//!                 reports: records, what was replayed (bounded: full pauses the guest, LOG-4)
//! ```
//!
//! The guest's disk, if it has one, has a thread of its own ([`DiskThread`]).

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::Duration;

use ft_logging::entry::Digest;
use ft_logging::protocol::Brake;
use ft_logging::types::Position;
use tokio::sync::mpsc::error::TrySendError;

use super::disk::{DiskImage, DiskThread};
use crate::cpu::Cpu;
use crate::determinism::{DiskDone, Inputs, Link, Order, Report};
use crate::devices::BlockRequest;
use crate::machine::{BuildError, Machine, Stop, run};
use crate::sys::kick::Kicker;

/// How many reports wait for the node's loop.
const REPORTS: usize = 256;

/// How many frames wait for the vCPU thread; more are dropped, as a network does.
const MAX_FRAMES_UNDER_WAY: usize = 4096;

/// How long the thread naps while its queue is full.
const FULL_NAP: Duration = Duration::from_micros(200);

/// How often the thread shows that it is alive while it waits for the disk.
const DISK_BEAT: Duration = Duration::from_millis(20);

/// What comes out of the vCPU thread.
#[derive(Debug)]
pub(super) enum FromVcpu {
    /// The machine stands before its first instruction.
    Built(Digest),
    /// There is none.
    NotBuilt(String),
    /// What the machine does.
    Report(Report),
    /// Something that a person should know.
    Warning(String),
    /// It stands still.
    Ended(Stop),
}

/// What both ends see of each other without a queue.
#[derive(Debug, Default)]
struct Shared {
    beats: AtomicU64,
    /// [`Brake::percent`].
    brake: AtomicU8,
    frames: AtomicUsize,
    position: AtomicU64,
    /// The machine is there, or will never be.
    built: AtomicBool,
}

/// How the thread starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Start {
    /// Live, once [`Vcpu::run`] is said.
    Live,
    /// Replaying whatever comes.
    Replay,
}

/// A handle to the vCPU thread.
#[derive(Clone, Debug)]
pub(super) struct Vcpu {
    /// Shared, so that the disk's thread can wake the vCPU's and not keep it alive.
    orders: Arc<mpsc::Sender<ToThread>>,
    shared: Arc<Shared>,
    kicker: Arc<std::sync::OnceLock<Kicker>>,
    seen_beats: u64,
}

#[derive(Debug)]
enum ToThread {
    Order(Order),
    Run,
    /// The disk is done with something.
    Disk,
}

impl Vcpu {
    /// Starts the thread, which builds its machine by `build`.
    pub(super) fn spawn<C: Cpu + 'static>(
        start: Start,
        disk: Option<Arc<DiskImage>>,
        build: impl FnOnce() -> Result<Machine<C>, BuildError> + Send + 'static,
    ) -> (Self, tokio::sync::mpsc::Receiver<FromVcpu>) {
        let (orders, inbox) = mpsc::channel();
        let orders = Arc::new(orders);
        let (outbox, reports) = tokio::sync::mpsc::channel(REPORTS);
        let disk = disk.map(|image| {
            let (vcpu, node) = (Arc::downgrade(&orders), outbox.downgrade());
            let wake = move || {
                if let Some(vcpu) = vcpu.upgrade() {
                    let _ = vcpu.send(ToThread::Disk);
                }
            };
            let tell = move |what| {
                if let Some(node) = node.upgrade() {
                    // The disk does not wait for the node's loop; it has few words.
                    let _ = node.try_send(FromVcpu::Warning(what));
                }
            };
            DiskThread::spawn(image, wake, tell)
        });
        let shared = Arc::new(Shared::default());
        let kicker = Arc::new(std::sync::OnceLock::new());
        let vcpu = Vcpu {
            orders,
            shared: shared.clone(),
            kicker: kicker.clone(),
            seen_beats: 0,
        };
        let link = ThreadLink {
            inbox,
            outbox,
            shared,
            disk,
        };
        thread::Builder::new()
            .name("vcpu".to_owned())
            .spawn(move || vcpu_thread(start, build, link, &kicker))
            .expect("the host starts a thread");
        (vcpu, reports)
    }

    pub(super) fn order(&self, order: Order) {
        // The thread only ends after the node's loop has.
        let _ = self.orders.send(ToThread::Order(order));
    }

    /// Lets a live machine run, at first or again.
    pub(super) fn run(&self) {
        let _ = self.orders.send(ToThread::Run);
    }

    /// A frame for the guest; dropped if too many are under way.
    pub(super) fn frame(&self, frame: Vec<u8>) {
        if self.shared.frames.load(Ordering::Relaxed) < MAX_FRAMES_UNDER_WAY {
            self.shared.frames.fetch_add(1, Ordering::Relaxed);
            self.order(Order::Frame(frame));
        }
    }

    /// Stands still as soon as the guest makes an access, or at once if it computes.
    pub(super) fn stop(&self) {
        self.order(Order::Stop);
        self.kick();
    }

    pub(super) fn set_brake(&self, brake: Brake) {
        self.shared.brake.store(brake.percent(), Ordering::Relaxed);
    }

    /// How far the machine has run, as of the last time that the thread came round.
    pub(super) fn position(&self) -> Position {
        Position(self.shared.position.load(Ordering::Relaxed))
    }

    /// Whether the thread came round since the last call; wakes it if it is in the guest. While it
    /// builds its machine, which may take longer than a peer's patience, it is alive.
    pub(super) fn check_alive(&mut self) -> bool {
        let beats = self.shared.beats.load(Ordering::Relaxed);
        let alive = beats != self.seen_beats || !self.shared.built.load(Ordering::Relaxed);
        self.seen_beats = beats;
        self.kick();
        alive
    }

    fn kick(&self) {
        if let Some(kicker) = self.kicker.get() {
            kicker.kick();
        }
    }
}

fn vcpu_thread<C: Cpu>(
    start: Start,
    build: impl FnOnce() -> Result<Machine<C>, BuildError>,
    link: ThreadLink,
    kicker: &std::sync::OnceLock<Kicker>,
) {
    let outbox = link.outbox.clone();
    let tell = |what| outbox.blocking_send(what).is_ok();
    let shared = link.shared.clone();
    let built = || shared.built.store(true, Ordering::Relaxed);
    let failed = |error: &dyn std::fmt::Display| {
        built();
        tell(FromVcpu::NotBuilt(error.to_string()));
    };
    let mut machine = match build() {
        Ok(machine) => machine,
        Err(error) => return failed(&error),
    };
    let digest = match machine.digest(true) {
        Ok(digest) => digest,
        Err(error) => return failed(&error),
    };
    match Kicker::for_this_thread() {
        Ok(this) => kicker.get_or_init(|| this),
        Err(error) => return failed(&error),
    };
    link.shared.beats.fetch_add(1, Ordering::Relaxed);
    built();
    tell(FromVcpu::Built(digest));
    let mut source = match start {
        Start::Replay => Inputs::replay(link),
        Start::Live => {
            if !link.wait_for_run() {
                return;
            }
            Inputs::live(link, &machine)
        }
    };
    loop {
        let stop = run(&mut machine, &mut source);
        if !tell(FromVcpu::Ended(stop)) || !source.link().wait_for_run() {
            return;
        }
    }
}

/// The thread's end of the queues.
#[derive(Debug)]
struct ThreadLink {
    inbox: mpsc::Receiver<ToThread>,
    outbox: tokio::sync::mpsc::Sender<FromVcpu>,
    shared: Arc<Shared>,
    disk: Option<DiskThread>,
}

impl ThreadLink {
    /// False if the node is gone.
    fn wait_for_run(&self) -> bool {
        loop {
            match self.inbox.recv_timeout(Duration::from_millis(20)) {
                Ok(ToThread::Run) => return true,
                Ok(ToThread::Order(Order::Frame(_))) => {
                    self.shared.frames.fetch_sub(1, Ordering::Relaxed);
                }
                Ok(ToThread::Order(_) | ToThread::Disk) | Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return false,
            }
            self.shared.beats.fetch_add(1, Ordering::Relaxed);
        }
    }
}

impl Link for ThreadLink {
    fn receive(&mut self, patience: Duration) -> Option<Order> {
        let received = if patience.is_zero() {
            self.inbox
                .try_recv()
                .map_err(|error| error == mpsc::TryRecvError::Disconnected)
        } else {
            self.inbox
                .recv_timeout(patience)
                .map_err(|error| error == RecvTimeoutError::Disconnected)
        };
        match received {
            Ok(ToThread::Order(order)) => {
                if matches!(order, Order::Frame(_)) {
                    self.shared.frames.fetch_sub(1, Ordering::Relaxed);
                }
                Some(order)
            }
            Ok(ToThread::Run | ToThread::Disk) | Err(false) => None,
            // The node is gone: stand still.
            Err(true) => Some(Order::Stop),
        }
    }

    fn send(&mut self, report: Report) {
        let mut report = FromVcpu::Report(report);
        loop {
            match self.outbox.try_send(report) {
                Ok(()) | Err(TrySendError::Closed(_)) => return,
                Err(TrySendError::Full(back)) => report = back,
            }
            // LOG-4: the guest is paused, but the thread is alive.
            self.shared.beats.fetch_add(1, Ordering::Relaxed);
            thread::sleep(FULL_NAP);
        }
    }

    fn beat(&mut self, position: Position) {
        self.shared.beats.fetch_add(1, Ordering::Relaxed);
        self.shared.position.store(position.0, Ordering::Relaxed);
    }

    fn brake(&self) -> Brake {
        Brake::from_percent(self.shared.brake.load(Ordering::Relaxed))
    }

    fn disk_request(&mut self, request: BlockRequest) {
        let disk = self.disk.as_ref();
        disk.expect("a machine with a disk has one here")
            .request(request);
    }

    fn disk_done(&mut self) -> Option<DiskDone> {
        self.disk.as_mut()?.done()
    }

    fn disk_wait(&mut self, tag: u64) -> Option<DiskDone> {
        loop {
            match self.disk.as_mut()?.wait(tag, DISK_BEAT) {
                Ok(done) => return Some(done),
                // The host's disk is slow; this thread is alive, unless its node is gone.
                Err(RecvTimeoutError::Timeout) if !self.outbox.is_closed() => {
                    self.shared.beats.fetch_add(1, Ordering::Relaxed);
                }
                Err(_) => return None,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::CpuError;
    use crate::cpu::kvm::KvmCpu;

    /// FAIL-1: a large machine on a slow host takes longer to build than any detection time.
    #[test]
    fn fail_1_a_node_that_builds_its_machine_is_alive() {
        let (go_on, gate) = mpsc::channel::<()>();
        let (mut vcpu, mut reports) = Vcpu::spawn::<KvmCpu>(Start::Live, None, move || {
            let _ = gate.recv();
            Err(CpuError::Unsupported("there is none".to_owned()).into())
        });
        for _ in 0..3 {
            assert!(vcpu.check_alive(), "it builds");
        }
        drop(go_on);
        let report = reports.blocking_recv();
        assert!(matches!(report, Some(FromVcpu::NotBuilt(_))), "{report:?}");
        assert!(!vcpu.check_alive(), "the thread has ended");
    }
}
