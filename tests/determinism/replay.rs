//! Whole machines: what was recorded is replayed, and the same comes out.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;
use std::time::Duration;

use ft_logging::entry::{Entry, Output, OutputDevice, Payload};
use ft_logging::message::Batch;
use ft_logging::protocol::{Brake, Record};
use ft_logging::types::{EntryIndex, OutputSeq, Position};

use vm_memory::{Bytes, GuestAddress};
use vmm::cpu::Cpu;
use vmm::cpu::kvm::KvmCpu;
use vmm::cpu::soft::SoftCpu;
use vmm::determinism::{DiskDone, Inputs, Link, LogLink, Order, Report};
use vmm::devices::BlockRequest;
use vmm::machine::{BootImages, Machine, MachineConfig, PowerOff, Stop, run};

use super::kvm;

fn config() -> MachineConfig {
    MachineConfig {
        memory_mib: 64,
        mac: [0x52, 0x54, 0, 0x12, 0x34, 0x56],
        rtc_epoch_s: 1_700_000_000,
        seed: [7; 32],
        disk: None,
    }
}

/// A CPU backend under test.
trait Backend: Cpu + Sized {
    /// The command line of a `noise` that does enough, on this backend, in a fraction of a second.
    const NOISE: &'static str;

    /// A machine on it; `None`, loudly, where there is none.
    fn machine(images: BootImages) -> Option<Machine<Self>>;
}

impl Backend for KvmCpu {
    const NOISE: &'static str = "rounds=60";

    fn machine(images: BootImages) -> Option<Machine<Self>> {
        let kvm = kvm()?;
        Some(Machine::build(config(), images, |ram| KvmCpu::new(&kvm, ram)).expect("it builds"))
    }
}

impl Backend for SoftCpu {
    const NOISE: &'static str = "rounds=400";

    fn machine(images: BootImages) -> Option<Machine<Self>> {
        Some(Machine::build(config(), images, |ram| Ok(SoftCpu::new(ram))).expect("it builds"))
    }
}

/// Each of these tests, on each backend.
macro_rules! on_each_backend {
    ($($test:ident)*) => {
        mod on_kvm {
            $(#[test] fn $test() { super::$test::<super::KvmCpu>(); })*
        }
        mod on_soft {
            $(#[test] fn $test() { super::$test::<super::SoftCpu>(); })*
        }
    };
}

on_each_backend! {
    det_1_the_kv_guest_boots_and_replays_to_the_same_state
    det_1_noise_replays_to_the_same_state
    det_1_bench_replays_to_the_same_state
    det_1_a_machine_restored_at_random_positions_goes_on_identically
    log_3_a_machine_never_runs_past_what_it_has_heard_of
    det_5_a_changed_entry_is_noticed_and_named
    det_5_a_flipped_bit_in_memory_or_a_register_is_noticed
}

/// A machine with one of the embedded guests; `None`, loudly, where the backend is missing.
fn machine<C: Backend>(guest: &str, command_line: &str) -> Option<Machine<C>> {
    let images = BootImages {
        name: guest.to_owned(),
        kernel: guest_images::by_name(guest)
            .expect("an embedded guest")
            .elf
            .into(),
        initrd: None,
        command_line: command_line.to_owned(),
    };
    C::machine(images)
}

/// What a recording left behind.
#[derive(Default)]
struct Recording {
    entries: Vec<Entry>,
    outputs: Vec<(OutputSeq, Output)>,
}

impl Recording {
    fn take(&mut self, records: Vec<Record>) {
        for Record {
            position,
            payload,
            output,
            ..
        } in records
        {
            let index = EntryIndex(self.entries.len() as u64 + 1);
            if let (Payload::Output(mark), Some(output)) = (&payload, output) {
                self.outputs.push((mark.seq, output));
            }
            self.entries.push(Entry {
                index,
                position,
                payload,
            });
        }
    }

    fn console(&self) -> String {
        self.outputs
            .iter()
            .filter(|(_, output)| output.device == OutputDevice::Console)
            .map(|(_, output)| String::from_utf8_lossy(&output.bytes))
            .collect()
    }
}

/// A link that records, and says what `script` says when the console shows what it waits for.
struct Scripted {
    recording: Rc<RefCell<Recording>>,
    script: VecDeque<(&'static str, Order)>,
}

impl Link for Scripted {
    fn receive(&mut self, patience: Duration) -> Option<Order> {
        let ready =
            |(text, _): &mut (&str, Order)| self.recording.borrow().console().contains(*text);
        if let Some((_, order)) = self.script.pop_front_if(ready) {
            return Some(order);
        }
        std::thread::sleep(patience);
        None
    }

    fn send(&mut self, report: Report) {
        match report {
            Report::Records(records) => self.recording.borrow_mut().take(records),
            Report::Replayed { .. } => unreachable!("a live machine"),
            Report::Shutdown(what) => panic!("{what}"),
        }
    }

    fn beat(&mut self, _position: Position) {}

    fn brake(&self) -> Brake {
        Brake::OFF
    }

    fn disk_request(&mut self, _request: BlockRequest) {
        unreachable!("a machine without a disk");
    }

    fn disk_done(&mut self) -> Option<DiskDone> {
        None
    }

    fn disk_wait(&mut self, _tag: u64) -> Option<DiskDone> {
        None
    }
}

fn record<C: Cpu>(
    machine: &mut Machine<C>,
    script: impl IntoIterator<Item = (&'static str, Order)>,
) -> (Recording, Stop) {
    let recording = Rc::new(RefCell::new(Recording::default()));
    let link = Scripted {
        recording: recording.clone(),
        script: script.into_iter().collect(),
    };
    let mut source = Inputs::live(link, machine);
    let stop = run(machine, &mut source);
    drop(source);
    (
        Rc::into_inner(recording)
            .expect("the link is gone")
            .into_inner(),
        stop,
    )
}

fn replay<C: Cpu>(machine: &mut Machine<C>, entries: &[Entry]) -> (Vec<(OutputSeq, Output)>, Stop) {
    let mut outputs = Vec::new();
    let batches = entries.chunks(7).map(Batch::from);
    let link = LogLink::new(batches, |seq, output| outputs.push((seq, output)));
    let stop = run(machine, &mut Inputs::replay(link));
    (outputs, stop)
}

/// Records `guest`, replays it, and holds everything against each other.
fn recorded_and_replayed<C: Backend>(guest: &str, command_line: &str, until: Option<&'static str>) {
    let Some(mut first) = machine::<C>(guest, command_line) else {
        return;
    };
    let (recording, stop) = record(&mut first, until.map(|text| (text, Order::Stop)));
    match until {
        Some(_) => assert!(matches!(stop, Stop::Requested), "{stop}"),
        None => assert!(matches!(stop, Stop::Off(PowerOff::Guest)), "{stop}"),
    }
    assert!(!recording.outputs.is_empty());
    for _ in 0..2 {
        let mut second = machine::<C>(guest, command_line).expect("as before");
        let (outputs, stop) = replay(&mut second, &recording.entries);
        assert!(matches!(stop, Stop::EndOfLog), "{stop}");
        assert_eq!(outputs, recording.outputs);
        assert_eq!(
            (second.position(), second.off()),
            (first.position(), first.off())
        );
        assert_eq!(
            second.digest(true).expect("read"),
            first.digest(true).expect("read")
        );
    }
}

/// DET-3 too: its virtqueues are written by devices, and the digest covers RAM.
fn det_1_the_kv_guest_boots_and_replays_to_the_same_state<C: Backend>() {
    recorded_and_replayed::<C>("kv", "", Some("listening"));
}

fn det_1_noise_replays_to_the_same_state<C: Backend>() {
    recorded_and_replayed::<C>("noise", C::NOISE, None);
}

fn det_1_bench_replays_to_the_same_state<C: Backend>() {
    recorded_and_replayed::<C>("bench", "rounds=1", None);
}

/// A recorded run of `noise`, and its machine at the end.
fn noise<C: Backend>() -> Option<(Machine<C>, Recording)> {
    let mut first = machine("noise", C::NOISE)?;
    let (recording, stop) = record(&mut first, []);
    assert!(matches!(stop, Stop::Off(PowerOff::Guest)), "{stop}");
    Some((first, recording))
}

/// The places in a log after which a machine that replays it stands between two steps.
fn boundaries(entries: &[Entry]) -> Vec<usize> {
    let ends_step = |entry: &Entry| matches!(entry.payload, Payload::Progress | Payload::Digest(_));
    (1..entries.len())
        .filter(|i| ends_step(&entries[i - 1]))
        .collect()
}

fn det_1_a_machine_restored_at_random_positions_goes_on_identically<C: Backend>() {
    let Some((mut first, recording)) = noise::<C>() else {
        return;
    };
    let boundaries = boundaries(&recording.entries);
    // The recording itself is different in every run, and so are the places.
    let cuts: Vec<usize> = (1..6)
        .map(|i| boundaries[boundaries.len() * i / 6])
        .collect();
    let mut machine_now = machine::<C>("noise", C::NOISE).expect("as before");
    let (mut outputs, mut from) = (Vec::new(), 0);
    for cut in cuts {
        let (said, stop) = replay(&mut machine_now, &recording.entries[from..cut]);
        assert!(matches!(stop, Stop::EndOfLog), "{stop}");
        outputs.extend(said);
        from = cut;
        let state = machine_now.save().expect("between two steps");
        machine_now = machine::<C>("noise", C::NOISE).expect("as before");
        machine_now.restore(&state).expect("the same machine");
        assert_eq!(machine_now.save().expect("between two steps"), state);
    }
    let (said, stop) = replay(&mut machine_now, &recording.entries[from..]);
    assert!(matches!(stop, Stop::EndOfLog), "{stop}");
    outputs.extend(said);
    assert_eq!(outputs, recording.outputs);
    assert_eq!(
        machine_now.digest(true).expect("read"),
        first.digest(true).expect("read")
    );
}

fn log_3_a_machine_never_runs_past_what_it_has_heard_of<C: Backend>() {
    let Some((_, recording)) = noise::<C>() else {
        return;
    };
    let mut machine = machine::<C>("noise", C::NOISE).expect("as before");
    let mut from = 0;
    for cut in boundaries(&recording.entries)
        .into_iter()
        .step_by(20)
        .take(20)
    {
        let heard = recording.entries[cut - 1].position;
        let (_, stop) = replay(&mut machine, &recording.entries[from..cut]);
        assert!(matches!(stop, Stop::EndOfLog), "{stop}");
        assert_eq!(
            machine.position(),
            heard,
            "all of what was heard of, and not a step more"
        );
        from = cut;
    }
}

fn det_5_a_changed_entry_is_noticed_and_named<C: Backend>() {
    let Some((_, recording)) = noise::<C>() else {
        return;
    };
    type Change = fn(&mut Payload) -> bool;
    let changes: [(&str, Change); 3] = [
        (
            "a clock that is a microsecond off",
            |payload| match payload {
                Payload::Clock { now } => {
                    now.0 += 1_000;
                    true
                }
                _ => false,
            },
        ),
        ("a flipped bit of entropy", |payload| match payload {
            Payload::Entropy { bytes } => {
                bytes[0] ^= 1;
                true
            }
            _ => false,
        }),
        ("another vector", |payload| match payload {
            Payload::Interrupt { vector } => {
                *vector ^= 1;
                true
            }
            _ => false,
        }),
    ];
    let last_digest = recording
        .entries
        .iter()
        .rposition(|entry| matches!(entry.payload, Payload::Digest(_)))
        .expect("one at least, when it is off");
    for (name, change) in changes {
        let mut entries = recording.entries.clone();
        // Of a time that nobody asks for before the next one nothing is left but in a digest.
        let changed = (0..last_digest)
            .rev()
            .find(|i| change(&mut entries[*i].payload));
        let changed = entries[changed.expect("noise has some of each")].index;
        let mut machine = machine::<C>("noise", C::NOISE).expect("as before");
        match replay(&mut machine, &entries).1 {
            Stop::Diverged { at, .. } => assert!(at >= changed, "{name}: {at} before {changed}"),
            other => panic!("{name} went unnoticed: {other}"),
        }
    }
}

fn det_5_a_flipped_bit_in_memory_or_a_register_is_noticed<C: Backend>() {
    let Some((_, recording)) = noise::<C>() else {
        return;
    };
    let ram_digest = recording
        .entries
        .iter()
        .rposition(|entry| matches!(entry.payload, Payload::Digest(d) if d.ram.is_some()))
        .expect("a digest that covers RAM");
    let boundaries = boundaries(&recording.entries);
    let cut = *boundaries
        .iter()
        .rfind(|cut| **cut < ram_digest)
        .expect("a place before it");
    type Plant<C> = fn(&mut Machine<C>);
    let plants: [(&str, Plant<C>); 2] = [
        ("memory", |machine| {
            let at = GuestAddress(0x80_0000);
            let byte: u8 = machine.ram().read_obj(at).expect("in RAM");
            machine.ram().write_obj(byte ^ 4, at).expect("in RAM");
        }),
        ("a register", |machine| {
            let position = machine.position();
            let mut state = machine.cpu().save().expect("between two steps");
            // One that the guest does not load anew before the next digest.
            state.debug[0] ^= 1 << 40;
            machine
                .cpu()
                .restore(&state, position)
                .expect("the same CPU");
        }),
    ];
    for (name, plant) in plants {
        let mut machine = machine::<C>("noise", C::NOISE).expect("as before");
        let (_, stop) = replay(&mut machine, &recording.entries[..cut]);
        assert!(matches!(stop, Stop::EndOfLog), "{stop}");
        plant(&mut machine);
        let (_, stop) = replay(&mut machine, &recording.entries[cut..]);
        assert!(
            matches!(stop, Stop::Diverged { .. }),
            "{name} went unnoticed: {stop}"
        );
    }
}
