//! Determinism on the real KVM: what was recorded is replayed, and the same comes out.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;
use std::time::Duration;

use ft_logging::entry::{Control, Entry, Output, OutputDevice, Payload};
use ft_logging::message::Batch;
use ft_logging::protocol::Record;
use ft_logging::types::{EntryIndex, OutputSeq, Position};

use super::{Inputs, Link, LogLink, Order, Report};
use crate::cpu::kvm::{KvmCpu, host};
use crate::machine::{BootImages, Machine, MachineConfig, PowerOff, Stop, run};

fn config() -> MachineConfig {
    MachineConfig {
        memory_mib: 64,
        mac: [0x52, 0x54, 0, 0x12, 0x34, 0x56],
        rtc_epoch_s: 1_700_000_000,
        seed: [7; 32],
    }
}

/// A machine with one of the embedded guests; `None`, loudly, where there is no KVM.
fn machine(guest: &str, command_line: &str) -> Option<Machine<KvmCpu>> {
    let kvm = match host::open() {
        Ok(kvm) => kvm,
        Err(error) => {
            eprintln!("SKIPPED: {error}");
            return None;
        }
    };
    let images = BootImages {
        name: guest.to_owned(),
        kernel: guest_images::by_name(guest)
            .expect("an embedded guest")
            .elf
            .into(),
        initrd: None,
        command_line: command_line.to_owned(),
    };
    Some(Machine::build(config(), images, |ram| KvmCpu::new(&kvm, ram)).expect("it builds"))
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
        }
    }

    fn beat(&mut self, _position: Position) {}

    fn is_slowed(&self) -> bool {
        false
    }
}

fn record(
    machine: &mut Machine<KvmCpu>,
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

fn replay(machine: &mut Machine<KvmCpu>, entries: &[Entry]) -> (Vec<(OutputSeq, Output)>, Stop) {
    let mut outputs = Vec::new();
    let batches = entries.chunks(7).map(Batch::from);
    let link = LogLink::new(batches, |seq, output| outputs.push((seq, output)));
    let stop = run(machine, &mut Inputs::replay(link));
    (outputs, stop)
}

#[test]
fn det_1_the_kv_guest_boots_and_replays_to_the_same_state() {
    let Some(mut first) = machine("kv", "") else {
        return;
    };
    let (recording, stop) = record(&mut first, [("listening", Order::Stop)]);
    assert!(matches!(stop, Stop::Requested), "{stop}");
    eprintln!("{}", recording.console());
    let mut second = machine("kv", "").expect("as before");
    let (outputs, stop) = replay(&mut second, &recording.entries);
    assert!(matches!(stop, Stop::EndOfLog), "{stop}");
    assert_eq!(outputs, recording.outputs);
    assert_eq!(second.position(), first.position());
    assert_eq!(
        second.digest(true).expect("a digest"),
        first.digest(true).expect("a digest")
    );
}
