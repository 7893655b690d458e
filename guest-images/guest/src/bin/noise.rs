//! noise: everything that could part two runs of one machine, all the time.
//!
//! Each round does a few things chosen by the checksum so far: programs the
//! timer, reads clocks and counters, asks for entropy, talks to the UART in
//! loopback, computes, halts. Interrupts are enabled all the while, in both
//! rings, and each one folds its line and the instruction that it interrupted
//! into the checksum; so do bytes that come in on the console and frames that
//! come in on the network. One bit of difference, or one interrupt an
//! instruction later, and the checksums part for ever.
//!
//! Options: `rounds=N` (default 200; 0 = for ever), `report=N` prints the
//! checksum every N rounds (default 20).
#![no_std]
#![no_main]

use ftvm_guest::{
    Boot, console,
    nucleus::{self, in8, in32, out8, ring_3},
    pic, pit, power, println, rtc,
    virtio::{net::NetDevice, rng::RngDevice},
};

ftvm_guest::guest!(main);

/// Things done in a round.
const ACTIONS_PER_ROUND: u32 = 16;

/// The ACPI PM timer; where there is none, all ones are read.
const PM_TIMER: u16 = 0x608;
const SYSTEM_CONTROL: u16 = 0x61;

/// What everything is folded into. The order counts.
struct Checksum(u64);

impl Checksum {
    fn fold(&mut self, value: u64) {
        self.0 = (self.0.rotate_left(9) ^ value).wrapping_mul(0x0000_0100_0000_01B3);
    }

    fn fold_bytes(&mut self, bytes: &[u8]) {
        self.fold(bytes.len() as u64);
        bytes.iter().for_each(|byte| self.fold(u64::from(*byte)));
    }
}

struct Noise {
    checksum: Checksum,
    net: NetDevice,
    rng: Option<RngDevice>,
    /// A request for entropy is under way.
    asked: bool,
}

fn main(boot: Boot) -> ! {
    let rounds = boot.option("rounds").unwrap_or(200);
    let report = boot.option("report").unwrap_or(20).max(1);
    println!("noise: rounds={rounds} report={report}");
    let mut noise = Noise::start();
    let mut round = 0;
    loop {
        round += 1;
        for _ in 0..ACTIONS_PER_ROUND {
            noise.act();
        }
        if round % report == 0 {
            println!("noise: round {round} checksum {:016x}", noise.checksum.0);
        }
        if round == rounds {
            println!("noise: done, checksum {:016x}", noise.checksum.0);
            power::off();
        }
    }
}

impl Noise {
    fn start() -> Self {
        let net = NetDevice::open();
        let rng = RngDevice::open();
        let rng_line = rng.as_ref().map_or(0, |rng| 1 << rng.line());
        console::interrupt_on_input();
        pit::periodic(4_000);
        pic::enable(1 << pit::LINE | 1 << console::LINE | 1 << net.line() | rng_line);
        nucleus::open_ring_3();
        Noise {
            checksum: Checksum(0xCBF2_9CE4_8422_2325),
            net,
            rng,
            asked: false,
        }
    }

    fn act(&mut self) {
        // The multiplication leaves the best bits on top.
        let Checksum(checksum) = self.checksum;
        let (action, parameter) = (checksum >> 60, (checksum >> 44) as u16);
        match action {
            0 => pit::periodic(500 + u32::from(parameter % 4_500)),
            1 | 2 => self.checksum.fold(u64::from(pit::count())),
            3 | 4 => self.checksum.fold(u64::from(in32(PM_TIMER))),
            5 => self
                .checksum
                .fold(u64::from(rtc::register((parameter % 10) as u8))),
            6 => self.checksum.fold(u64::from(ring_3::in8(SYSTEM_CONTROL))),
            7 => self.ports_of_ring_3(parameter),
            8 | 9 => self.ask(parameter),
            10 => self.loopback(parameter as u8),
            11 | 12 => self.compute(parameter),
            13 => self.checksum.fold(rtc::unix_seconds()),
            _ => self.halt(),
        }
        self.listen();
    }

    /// The timer's count, read from ring 3: an interrupt may come between the accesses.
    fn ports_of_ring_3(&mut self, parameter: u16) {
        for _ in 0..1 + parameter % 4 {
            ring_3::out8(0x43, 0x00);
            let (low, high) = (ring_3::in8(0x40), ring_3::in8(0x40));
            self.checksum
                .fold(u64::from(u16::from_le_bytes([low, high])));
        }
    }

    fn ask(&mut self, parameter: u16) {
        if let Some(rng) = &mut self.rng
            && !self.asked
        {
            rng.request(1 + usize::from(parameter) % ftvm_guest::virtio::rng::MAX_BYTES);
            self.asked = true;
        }
    }

    /// Sends a byte to itself through the UART.
    fn loopback(&mut self, byte: u8) {
        const DATA: u16 = 0x3F8;
        const MODEM_CONTROL: u16 = 0x3FC;
        const LOOP: u8 = 0x10;
        let before = in8(MODEM_CONTROL);
        out8(MODEM_CONTROL, before | LOOP);
        out8(DATA, byte);
        while let Some(received) = console::read() {
            self.checksum.fold(u64::from(received));
        }
        out8(MODEM_CONTROL, before);
    }

    /// A stretch without any access.
    fn compute(&mut self, parameter: u16) {
        for step in 0..u64::from(parameter) {
            self.checksum.fold(step);
        }
    }

    fn halt(&mut self) {
        let events = nucleus::wait(self.net.before_wait());
        self.checksum.fold(u64::from(events.bits()));
    }

    /// Folds in all that has come from outside, and every interrupt so far.
    fn listen(&mut self) {
        if let Some(entropy) = self.rng.as_mut().and_then(RngDevice::take) {
            self.asked = false;
            self.checksum.fold_bytes(entropy);
        }
        while self.net.receiver.ready() {
            self.net
                .receiver
                .receive(|frame| self.checksum.fold_bytes(frame));
        }
        while let Some(byte) = console::read() {
            self.checksum.fold(u64::from(byte));
        }
        self.checksum.fold(nucleus::interrupt_trace());
    }
}
