//! The figures for people: as text, and as Markdown for docs/benchmarks.md.

use std::fmt::Write as _;

use ft_logging::inspect::KindStats;

use super::super::text::{Table, bit_rate, number, text as cell};
use super::figures::{
    Figures, Host, Kills, LeftOut, RedisBenchmark, Requests, Spread, VariantFigures,
};

/// What the paper does not say.
const NOTHING: &str = "–";

/// What a run of redis-benchmark that came to its end says of the answers.
const REDIS_BENCHMARK_CHECKS: &str =
    "redis-benchmark met no error; the values that it gets it does not check.";

/// A table with a title, before it is known how it will be written.
#[derive(Debug, Default)]
pub(super) struct Section {
    title: &'static str,
    head: Vec<&'static str>,
    rows: Vec<Vec<String>>,
}

impl Section {
    /// Without rows.
    pub(super) fn new(title: &'static str, head: Vec<&'static str>) -> Self {
        Section {
            title,
            head,
            rows: Vec::new(),
        }
    }

    /// Adds a row, of as many cells as the head has.
    pub(super) fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        self.rows.push(cells.into_iter().collect());
    }
}

/// What a run is reported as: lines about the host and the run, tables, and a last word.
#[derive(Debug, Default)]
pub(super) struct Page {
    pub(super) lines: Vec<String>,
    pub(super) sections: Vec<Section>,
    pub(super) closing: String,
}

impl Page {
    /// The figures of `ftvm bench`.
    pub(super) fn of(figures: &Figures) -> Self {
        Page {
            lines: preamble(figures),
            sections: sections(figures),
            closing: closing(figures),
        }
    }

    /// Aligned columns.
    pub(super) fn text(&self) -> String {
        let mut page = self.lines.join("\n") + "\n";
        for section in &self.sections {
            let mut table = Table::default();
            let head = section.head.iter().map(|head| (*head).to_owned()).collect();
            for row in [head].iter().chain(&section.rows) {
                // Names to the left, figures to the right.
                let cells = row.iter().enumerate();
                table.row(cells.map(|(at, text)| if at == 0 { cell(text) } else { number(text) }));
            }
            let _ = write!(page, "\n{}\n{table}", section.title);
        }
        page + &self.closing
    }

    /// Markdown tables.
    pub(super) fn markdown(&self) -> String {
        let mut page = String::new();
        for line in &self.lines {
            let _ = writeln!(page, "- {line}");
        }
        for section in &self.sections {
            let _ = writeln!(page, "\n### {}\n", section.title);
            let _ = writeln!(page, "| {} |", section.head.join(" | "));
            let rule = section.head.iter().enumerate();
            let rule: Vec<&str> = rule.map(|(at, _)| ["---", "---:"][at.min(1)]).collect();
            let _ = writeln!(page, "| {} |", rule.join(" | "));
            for row in &section.rows {
                let _ = writeln!(page, "| {} |", row.join(" | "));
            }
        }
        page + &self.closing
    }
}

/// Where it was measured, and what makes the figures mean little.
pub(super) fn host_lines(host: &Host, quick: bool) -> Vec<String> {
    let mut lines = vec![format!(
        "host: {} CPUs ({}), KVM in {}, load average {:.2} before the run",
        host.cpus, host.cpu_model, host.kvm, host.load_average
    )];
    if !host.release_build {
        lines.push("a debug build: the figures mean little".to_owned());
    }
    if quick {
        lines.push("a quick run: the figures mean little".to_owned());
    }
    lines
}

/// What was not measured.
pub(super) fn left_out_lines(left_out: &[LeftOut]) -> impl Iterator<Item = String> {
    left_out
        .iter()
        .map(|out| format!("left out: {}: {}", out.what, out.why))
}

fn preamble(figures: &Figures) -> Vec<String> {
    let settings = &figures.settings;
    let mut lines = host_lines(&figures.host, settings.quick);
    let run = format!(
        "run: guest {} on {}, rounds of {} s × {}, {} clients to each VM, detection after {} ms",
        settings.guest,
        settings.cpu,
        settings.seconds,
        settings.rounds,
        settings.clients,
        settings.detect_ms
    );
    lines.insert(1, run);
    if let Some(redis) = &figures.redis_benchmark {
        lines.push(format!(
            "{}: tests of some {} s, {} clients to each VM, values of {} bytes, {} keys at random",
            redis.program,
            redis.test_seconds,
            settings.redis_benchmark_clients,
            redis.value_bytes,
            redis.keys
        ));
    }
    lines.extend(left_out_lines(&figures.left_out));
    lines
}

fn closing(figures: &Figures) -> String {
    let faults = &figures.faults;
    let found = match &faults.first_fault {
        None => "nothing was lost, doubled or broken".to_owned(),
        Some(first) => format!(
            "{} lost, {} doubled, {} connections broken: {first}",
            faults.lost, faults.duplicated, faults.connections_broken
        ),
    };
    let only_redis_benchmark = figures.requests.is_none()
        && figures.bandwidth.is_none()
        && figures.kills.is_none()
        && figures.heartbeats.is_none();
    match (&figures.redis_benchmark, only_redis_benchmark) {
        (None, _) => format!("\nEvery answer of every load was checked: {found}.\n"),
        (Some(_), true) => format!("\n{REDIS_BENCHMARK_CHECKS}\n"),
        (Some(_), false) => format!(
            "\nEvery answer of every other load was checked: {found}. {REDIS_BENCHMARK_CHECKS}\n"
        ),
    }
}

fn sections(figures: &Figures) -> Vec<Section> {
    let requests = figures.requests.as_ref().map(requests);
    let redis = figures.redis_benchmark.as_ref().map(redis_benchmark);
    let kinds = figures.bandwidth.as_ref().map(|bandwidth| {
        let idle = (&bandwidth.idle_kinds, "idle");
        kinds([idle, (&bandwidth.loaded_kinds, "loaded")])
    });
    [Some(summary(figures)), requests, redis, kinds]
        .into_iter()
        .flatten()
        .filter(|section| !section.rows.is_empty())
        .collect()
}

/// Everything that one line can say, beside the paper's figure where it has one.
fn summary(figures: &Figures) -> Section {
    let mut section = Section::new("Summary", vec!["", "ftvm", "VMware FT (2010)"]);
    let mut row = |name: &str, ours: String, paper: &str| {
        section.row([name.to_owned(), ours, paper.to_owned()]);
    };
    if let Some(requests) = &figures.requests {
        let Requests {
            lag_ms_median,
            lag_ms_p99,
            ..
        } = requests;
        let protected = ratio(&requests.protected_ratio);
        row("requests, protected / unprotected", protected, "0.94–0.99");
        let recorded = ratio(&requests.recorded_ratio);
        row("requests, recorded / unprotected", recorded, NOTHING);
        let lag = format!("{lag_ms_median:.1} ms, p99 {lag_ms_p99:.1} ms");
        row("replay lag under load", lag, "below 100 ms");
        let log = bit_rate(requests.log_bits_per_s);
        row("the protected VM's log there", log, "1.5–18 Mbit/s");
    }
    if let Some(redis) = &figures.redis_benchmark {
        redis_rows(redis, &mut row);
    }
    if let Some(bandwidth) = &figures.bandwidth {
        let idle = bit_rate(bandwidth.idle_bits_per_s);
        row("log, idle", idle, "0.5–1.5 Mbit/s");
        let loaded = format!(
            "{} at {:.0} requests/s",
            bit_rate(bandwidth.loaded_bits_per_s),
            bandwidth.loaded_requests_per_s
        );
        row("log, loaded", loaded, "1.5–18 Mbit/s");
        let overhead = format!("{:.1} bytes", bandwidth.frame_overhead_bytes);
        row("cost of a received frame beside it", overhead, NOTHING);
    }
    if let Some(kills) = &figures.kills {
        kill_rows(kills, &mut row);
    }
    if let Some(beats) = &figures.heartbeats {
        let gap = format!(
            "{:.1} ms, worst {:.1} ms of {}",
            beats.gap_ms_p9999, beats.gap_ms_worst, beats.gaps
        );
        let every = format!(
            "heartbeat gap, every {} ms, all CPUs busy: p99.99",
            beats.every_ms
        );
        row(&every, gap, NOTHING);
        let alarms = format!("{} in {:.0} s", beats.false_alarms, beats.seconds);
        row("false alarms there", alarms, NOTHING);
    }
    if let Some(claims) = &figures.claims {
        let took = format!(
            "{}, p99 {:.1} ms of {}",
            median_worst(&claims.claim_ms),
            claims.claim_ms_p99,
            claims.count
        );
        row("a claim, the arbiter idle", took, NOTHING);
    }
    section
}

fn kill_rows(kills: &Kills, row: &mut impl FnMut(&str, String, &str)) {
    let count = kills.count;
    let suspected = format!("{} of {count}", median_worst(&kills.suspected_ms));
    row("SIGKILL to suspicion", suspected, "a few seconds");
    row(
        "SIGKILL to the new primary",
        median_worst(&kills.live_ms),
        NOTHING,
    );
    row(
        "SIGKILL to the first answer",
        median_worst(&kills.first_answer_ms),
        NOTHING,
    );
    row(
        "longest wait of any request",
        median_worst(&kills.longest_wait_ms),
        NOTHING,
    );
    row("the claim in it", median_worst(&kills.claim_ms), NOTHING);
}

/// What a redis-benchmark test is called.
fn redis_test_name(test: &str, pipeline: u32) -> String {
    match pipeline {
        1 => test.to_owned(),
        pipeline => format!("{test}, pipeline {pipeline}"),
    }
}

fn redis_rows(redis: &RedisBenchmark, row: &mut impl FnMut(&str, String, &str)) {
    for test in &redis.tests {
        let name = redis_test_name(test.test, test.pipeline);
        let name = format!("redis-benchmark {name}: protected / unprotected");
        row(&name, ratio(&test.protected_ratio), "0.94–0.99");
        let log = bit_rate(test.log_bits_per_s);
        row("… the protected VM's log", log, "1.5–18 Mbit/s");
    }
    let lag = format!(
        "{:.1} ms, p99 {:.1} ms",
        redis.lag_ms_median, redis.lag_ms_p99
    );
    row("… replay lag over all of them", lag, "below 100 ms");
}

/// A table of variants, which has a line for each of them.
fn variants_section(title: &'static str) -> Section {
    let head = vec![
        "variant",
        "requests/s",
        "least–most",
        "median",
        "p99",
        "CPU: gateway",
        "primary",
        "backup",
    ];
    Section::new(title, head)
}

fn variant_row(section: &mut Section, prefix: &str, variant: &VariantFigures) {
    let Spread {
        median,
        least,
        most,
    } = variant.requests_per_s;
    let beside = match variant.variant {
        "unprotected" | "recorded" => ", its equal beside it",
        _ => "",
    };
    section.row([
        format!("{prefix}{}{beside}", variant.variant),
        format!("{median:.0}"),
        format!("{least:.0}–{most:.0}"),
        format!("{:.2} ms", variant.median_us / 1e3),
        format!("{:.2} ms", variant.p99_us / 1e3),
        format!("{:.0} µs", variant.cpu_us.gateway),
        format!("{:.0} µs", variant.cpu_us.primary),
        format!("{:.0} µs", variant.cpu_us.backup),
    ]);
}

fn requests(requests: &Requests) -> Section {
    let mut section = variants_section("Requests of one VM");
    for variant in &requests.variants {
        variant_row(&mut section, "", variant);
    }
    section
}

fn redis_benchmark(redis: &RedisBenchmark) -> Section {
    let mut section = variants_section("redis-benchmark against one VM");
    for test in &redis.tests {
        let prefix = format!("{}: ", redis_test_name(test.test, test.pipeline));
        for variant in &test.variants {
            variant_row(&mut section, &prefix, variant);
        }
    }
    section
}

fn kinds(parts: [(&Vec<KindStats>, &str); 2]) -> Section {
    let mut section = Section::new(
        "The log by kind of entry",
        vec!["kind", "entries", "bytes each", "share of bytes"],
    );
    for (kinds, when) in parts {
        for kind in kinds {
            section.row([
                format!("{when}: {}", kind.kind.name()),
                kind.count.to_string(),
                format!("{:.1}", kind.bytes_per_entry),
                format!("{:.1} %", kind.share * 100.0),
            ]);
        }
    }
    section
}

fn ratio(spread: &Spread) -> String {
    let Spread {
        median,
        least,
        most,
    } = spread;
    format!("{median:.3} ({least:.3}–{most:.3})")
}

fn median_worst(spread: &Spread) -> String {
    format!("{:.1} ms, worst {:.1} ms", spread.median, spread.most)
}

#[cfg(test)]
mod tests {
    use super::super::figures::{Claims, Faults, Host, Settings};
    use super::*;
    use crate::cpu::Backend;

    fn example() -> Figures {
        let host = Host {
            cpus: 2,
            cpu_model: "a CPU".to_owned(),
            kvm: "software, 4.2 million instructions/s".to_owned(),
            load_average: 0.5,
            release_build: false,
        };
        let settings = Settings {
            quick: false,
            seconds: 5.0,
            rounds: 3,
            kills: 2,
            claims: 4,
            clients: 8,
            redis_benchmark_clients: 50,
            detect_ms: 500,
            guest: "kv".to_owned(),
            cpu: Backend::Kvm,
        };
        let mut figures = Figures::new(host, settings);
        figures.claims = Some(Claims {
            count: 4,
            claim_ms: Spread {
                median: 1.25,
                least: 1.0,
                most: 9.0,
            },
            claim_ms_p99: 8.0,
        });
        figures
    }

    #[test]
    fn a_part_that_was_not_measured_is_not_shown() {
        let page = Page::of(&example()).text();
        assert!(
            page.contains("1.2 ms, worst 9.0 ms, p99 8.0 ms of 4"),
            "{page}"
        );
        assert!(page.contains("debug build"), "{page}");
        assert!(page.contains("nothing was lost"), "{page}");
        assert!(!page.contains("SIGKILL"), "{page}");
    }

    #[test]
    fn markdown_has_a_rule_below_each_head_and_as_many_cells_in_each_row() {
        let page = Page::of(&example()).markdown();
        let rows: Vec<&str> = page.lines().filter(|line| line.starts_with('|')).collect();
        assert_eq!(rows[1], "| --- | ---: | ---: |");
        for row in &rows {
            assert_eq!(row.matches('|').count(), 4, "{row}");
        }
    }

    #[test]
    fn what_was_left_out_is_said_in_both() {
        let mut figures = example();
        figures.claims = None;
        figures.left_out.push(LeftOut {
            what: "redis-benchmark",
            why: "it is not installed".to_owned(),
        });
        let page = Page::of(&figures);
        for text in [page.text(), page.markdown()] {
            let said = text.contains("left out: redis-benchmark: it is not installed\n");
            assert!(said, "{text}");
            assert!(!text.contains("Summary"), "a table without rows: {text}");
        }
    }

    #[test]
    fn a_fault_is_said_aloud() {
        let mut figures = example();
        figures.faults = Faults {
            lost: 1,
            first_fault: Some("demo:1:2 should be 3".to_owned()),
            ..Faults::default()
        };
        assert!(Page::of(&figures).text().contains("1 lost, 0 doubled"));
    }
}
