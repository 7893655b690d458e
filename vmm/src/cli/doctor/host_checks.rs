//! What else of this host matters to a node: CPUs, memory, network, clock, limits.

use std::fs;
use std::io::ErrorKind;
use std::path::Path;
use std::thread::available_parallelism;

use super::super::text::{bytes, count};
use super::Check;
use crate::cpu::kvm::host::cpu_model;
use crate::sys::tap::{TUN_DEVICE, open_tun};

/// A vCPU thread and everything else.
const WANTED_CPUS: usize = 2;

/// A guest of the default size, its hashes, and the program.
const WANTED_MEMORY_BYTES: u64 = 256 << 20;

/// A gateway has two descriptors for each client, and clients come by hundreds.
const WANTED_FILES: u64 = 1024;

/// Clock sources that are read without leaving user space, or nearly so.
const FAST_CLOCKS: [&str; 5] = [
    "tsc",
    "kvm-clock",
    "hyperv_clocksource_tsc_page",
    "xen",
    "pvclock",
];

pub(super) fn checks() -> Vec<Check> {
    vec![
        Check::ok("CPU model", cpu_model()),
        cpus(available_parallelism().map_or(1, std::num::NonZero::get)),
        memory(&read("/proc/meminfo")),
        clock(read("/sys/devices/system/clocksource/clocksource0/current_clocksource").trim()),
        open_files(&read("/proc/self/limits")),
        tun(Path::new(TUN_DEVICE)),
    ]
}

/// A file of the kernel's; empty where there is none.
fn read(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_default()
}

fn cpus(number: usize) -> Check {
    let found = count(number, "CPU", "CPUs");
    match number {
        WANTED_CPUS.. => Check::ok("CPUs", found),
        _ => Check::warn(
            "CPUs",
            found,
            "the vCPU shares it with the network: heartbeats come late under load, give --detect \
             more",
        ),
    }
}

fn memory(meminfo: &str) -> Check {
    let available = meminfo.lines().find_map(|line| {
        let kib = line
            .strip_prefix("MemAvailable:")?
            .trim()
            .strip_suffix(" kB")?;
        kib.parse::<u64>().ok()?.checked_mul(1024)
    });
    match available {
        None => Check::warn(
            "memory",
            "unknown: /proc/meminfo does not tell",
            "a guest needs its --memory, 64 MiB if nothing else is said",
        ),
        Some(free) if free >= WANTED_MEMORY_BYTES => {
            Check::ok("memory", format!("{} available", bytes(free)))
        }
        Some(free) => Check::warn(
            "memory",
            format!("{} available", bytes(free)),
            "a guest needs its --memory, 64 MiB if nothing else is said, and the program some more",
        ),
    }
}

fn clock(source: &str) -> Check {
    match source {
        "" => Check::warn(
            "time source",
            "unknown",
            "time stamps may be slow; /sys/devices/system/clocksource tells more where it is there",
        ),
        fast if FAST_CLOCKS.contains(&fast) => Check::ok("time source", fast),
        slow => Check::warn(
            "time source",
            slow,
            "each look at the clock is a system call or worse: a guest that asks for the time often \
             is slowed. `tsc` is fast where the hardware's is reliable",
        ),
    }
}

fn open_files(limits: &str) -> Check {
    let limit = limits.lines().find_map(|line| {
        let soft = line
            .strip_prefix("Max open files")?
            .split_whitespace()
            .next()?;
        match soft {
            "unlimited" => Some(u64::MAX),
            number => number.parse().ok(),
        }
    });
    match limit {
        Some(u64::MAX) => Check::ok("open files", "unlimited"),
        Some(limit) if limit >= WANTED_FILES => Check::ok("open files", format!("at most {limit}")),
        limit => Check::warn(
            "open files",
            limit.map_or("unknown".to_owned(), |limit| format!("at most {limit}")),
            format!(
                "a gateway with many clients runs out of them: `ulimit -n {WANTED_FILES}` before \
                 starting it"
            ),
        ),
    }
}

fn tun(device: &Path) -> Check {
    let instead = "--net gateway=HOST:PORT needs none of it";
    match open_tun(device) {
        Ok(_) => Check::ok(TUN_DEVICE, "opened"),
        Err(error) if error.kind() == ErrorKind::NotFound => Check::warn(
            TUN_DEVICE,
            "there is none",
            format!("`modprobe tun` for --net tap=NAME; {instead}"),
        ),
        Err(error) if error.kind() == ErrorKind::PermissionDenied => Check::warn(
            TUN_DEVICE,
            "it may not be opened",
            format!(
                "for --net tap=NAME an administrator makes the device: `sudo ip tuntap add NAME \
                 mode tap user $USER`; {instead}"
            ),
        ),
        Err(error) => Check::warn(TUN_DEVICE, error.to_string(), instead),
    }
}

#[cfg(test)]
mod tests {
    use super::super::Verdict::{self, Ok as Good, Warn};
    use super::*;

    #[test]
    fn what_the_kernel_says_is_read_and_judged() {
        let files = |limit: &str| {
            format!("Max processes  1 2 x\nMax open files            {limit}    524288    files\n")
        };
        let cases: [(Check, Verdict, &str); 12] = [
            (cpus(1), Warn, "1 CPU"),
            (cpus(2), Good, "2 CPUs"),
            (
                memory("MemTotal: 1 kB\nMemAvailable:    1048576 kB\n"),
                Good,
                "1.0 GiB available",
            ),
            (
                memory("MemAvailable:    1024 kB\n"),
                Warn,
                "1.0 MiB available",
            ),
            (
                memory("garbage"),
                Warn,
                "unknown: /proc/meminfo does not tell",
            ),
            (clock("tsc"), Good, "tsc"),
            (clock("acpi_pm"), Warn, "acpi_pm"),
            (clock(""), Warn, "unknown"),
            (open_files(&files("1024")), Good, "at most 1024"),
            (open_files(&files("256")), Warn, "at most 256"),
            (open_files(&files("unlimited")), Good, "unlimited"),
            (tun(Path::new("/nonexistent/tun")), Warn, "there is none"),
        ];
        for (check, verdict, found) in cases {
            assert_eq!(
                (check.verdict, check.found.as_str()),
                (verdict, found),
                "{check:?}"
            );
            assert_eq!(check.advice.is_some(), verdict != Good, "{check:?}");
        }
    }
}
