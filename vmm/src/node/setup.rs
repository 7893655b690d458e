//! What a node needs before its loop can turn.

use std::sync::Arc;
use std::time::UNIX_EPOCH;

use ft_logging::initial::{Configuration, InitialState, MACHINE_MODEL_VERSION};
use ft_logging::store::{LogStart, Place};
use ft_logging::types::{Generation, Incarnation, Life, Token};
use test_and_set::types::{Label, Member};
use tokio::net::TcpListener;
use tokio::sync::mpsc;

use super::config::NodeConfig;
use super::console::ConsoleHub;
use super::recorder::Recorder;
use super::vcpu::{FromVcpu, Start, Vcpu};
use super::world::{Speaker, World};
use super::{Event, peer};
use crate::cpu::kvm::{KvmCpu, host};
use crate::cpu::soft::SoftCpu;
use crate::cpu::{Backend, CpuError};
use crate::machine::{Machine, MachineConfig};

/// How many who connected may be waiting to say hello; more are turned away.
const MAX_GREETINGS: usize = 16;

/// Random bytes from the kernel.
pub(super) fn random<const N: usize>() -> anyhow::Result<[u8; N]> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes)
        .map_err(|error| anyhow::anyhow!("the kernel gives no random bytes: {error}"))?;
    Ok(bytes)
}

/// What the guest's real-time clock begins with.
#[expect(
    clippy::disallowed_methods,
    reason = "part of the initial state, which is recorded"
)]
pub(super) fn rtc_epoch_s() -> u64 {
    std::time::SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs())
}

/// What both nodes must agree on, as this one sees it.
pub(super) fn configuration(config: &NodeConfig) -> anyhow::Result<Configuration> {
    let images = &config.images;
    Ok(Configuration {
        machine_model: MACHINE_MODEL_VERSION,
        vm: config.vm.to_string(),
        guest: images.name.clone(),
        image: *blake3::hash(&images.kernel).as_bytes(),
        initrd: images
            .initrd
            .as_ref()
            .map(|initrd| *blake3::hash(initrd).as_bytes()),
        memory_mib: config.memory_mib,
        command_line: images.command_line.clone(),
        mac: config.mac,
        disk: match &config.disk {
            Some(disk) => Some(disk.identity()?),
            None => None,
        },
        cpu: config.cpu.identity()?,
    })
}

/// Starts the vCPU thread of a machine that starts from `initial`.
pub(super) fn spawn_vcpu(
    config: &NodeConfig,
    start: Start,
    initial: &InitialState,
) -> (Vcpu, mpsc::Receiver<FromVcpu>) {
    let images = config.images.clone();
    let machine = MachineConfig::of(initial);
    let disk = config.disk.clone();
    let open = || host::open().map_err(|error| CpuError::Unsupported(error.to_string()));
    match config.cpu {
        Backend::Kvm => Vcpu::spawn(start, disk, move || {
            let kvm = open()?;
            Machine::build(machine, images, |ram| KvmCpu::new(&kvm, ram))
        }),
        Backend::KvmFree => Vcpu::spawn(start, disk, move || {
            let kvm = open()?;
            Machine::build(machine, images, |ram| KvmCpu::free(&kvm, ram))
        }),
        Backend::Soft => Vcpu::spawn(start, disk, move || {
            Machine::build(machine, images, |ram| Ok(SoftCpu::new(ram)))
        }),
    }
}

/// Plugs the guest into its network and console.
pub(super) async fn open_world(
    config: &NodeConfig,
    incarnation: Incarnation,
    life: Life,
    vcpu: &Vcpu,
    readers: &ConsoleHub,
    events: &mpsc::Sender<Event>,
) -> anyhow::Result<World> {
    let speaker = Speaker {
        vm: config.vm.to_string(),
        life,
        incarnation,
        mac: config.mac,
    };
    let (net, console) = (config.net.clone(), config.console.clone());
    let (vcpu, events, fuse) = (vcpu.clone(), events.clone(), config.fuse.clone());
    World::open(net, console, readers.clone(), speaker, vcpu, events, fuse).await
}

/// Begins the log on disk, if one is wanted.
pub(super) fn create_recorder(
    config: &NodeConfig,
    initial: &InitialState,
    events: &mpsc::Sender<Event>,
) -> anyhow::Result<Option<Recorder>> {
    let Some(log) = &config.log else {
        return Ok(None);
    };
    let token = Token {
        generation: Generation(1),
        won: false,
    };
    let start = LogStart {
        initial: initial.clone(),
        token,
        place: Place::START,
    };
    Recorder::create(log.clone(), start, events.clone()).map(Some)
}

/// A node as the arbiter knows it; `None` if its name or address is no text that it takes.
pub(super) fn member(incarnation: Incarnation, node: &str, address: &str) -> Option<Member> {
    let node: Label = node.parse().ok()?;
    let address = address.parse().ok()?;
    let incarnation = test_and_set::types::Incarnation(incarnation.0);
    Some(Member {
        incarnation,
        node,
        address,
    })
}

/// Takes connections. Those of a probe say nothing.
pub(super) async fn accept(listener: TcpListener, events: mpsc::Sender<Event>) {
    let greetings = Arc::new(tokio::sync::Semaphore::new(MAX_GREETINGS));
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                // Out of file descriptors, as a rule: others will be closed.
                tracing::warn!(%error, "accepting a connection");
                tokio::time::sleep(std::time::Duration::from_millis(100)).await;
                continue;
            }
        };
        let Ok(permit) = greetings.clone().try_acquire_owned() else {
            continue;
        };
        let events = events.clone();
        tokio::spawn(async move {
            let _permit = permit;
            let event = match peer::greet(stream).await {
                Ok(Some(greeting)) => Event::Hello(Box::new(greeting)),
                Ok(None) => return,
                Err(error) => Event::Warning(format!("somebody on the replication port: {error}")),
            };
            let _ = events.send(event).await;
        });
    }
}
