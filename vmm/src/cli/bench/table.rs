//! The figures for people: what the page says, in which tables.

use ft_logging::inspect::KindStats;

use super::super::text::bit_rate;
use super::figures::{Figures, Kills, RedisBenchmark, Requests, Spread, VariantFigures};
use super::page::{Page, Section, host_lines, left_out_lines};

/// What the paper does not say.
const NOTHING: &str = "–";

/// What a run of redis-benchmark that came to its end says of the answers.
const REDIS_BENCHMARK_CHECKS: &str =
    "redis-benchmark met no error; the values that it gets it does not check.";

impl Page {
    /// The figures of `ftvm bench`.
    pub(super) fn of(figures: &Figures) -> Self {
        Page {
            lines: preamble(figures),
            sections: sections(figures),
            closing: closing(figures),
        }
    }
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
        .filter(|section| !section.is_empty())
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
    use std::time::Duration;

    use super::super::figures::{
        Claims, CpuTime, Faults, Heartbeats, Host, LeftOut, RedisTest, Settings,
    };
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
    fn redis_benchmark_has_its_rows_and_is_not_said_to_check_answers() {
        let one = |figure| Spread {
            median: figure,
            least: figure,
            most: figure,
        };
        let variant = |variant, rate| VariantFigures {
            variant,
            requests_per_s: one(rate),
            median_us: 2000.0,
            p99_us: 4000.0,
            cpu_us: CpuTime::per_request([Duration::from_millis(20); 3], 1000),
        };
        let mut figures = example();
        figures.claims = None;
        figures.redis_benchmark = Some(RedisBenchmark {
            program: "redis-benchmark 7.0.15".to_owned(),
            test_seconds: 2.5,
            value_bytes: 64,
            keys: 1000,
            lag_ms_median: 1.0,
            lag_ms_p99: 9.0,
            tests: vec![RedisTest {
                test: "SET",
                pipeline: 16,
                requests: 1000,
                protected_ratio: one(0.95),
                log_bits_per_s: 2.5e6,
                variants: vec![variant("unprotected", 1000.0), variant("protected", 950.0)],
            }],
        });
        let page = Page::of(&figures).markdown();
        for line in [
            "- redis-benchmark 7.0.15: tests of some 2.5 s, 50 clients to each VM, values of 64 bytes, 1000 keys at random",
            "| redis-benchmark SET, pipeline 16: protected / unprotected | 0.950 (0.950–0.950) | 0.94–0.99 |",
            "| … the protected VM's log | 2.50 Mbit/s | 1.5–18 Mbit/s |",
            "| SET, pipeline 16: protected | 950 | 950–950 | 2.00 ms | 4.00 ms | 20 µs | 20 µs | 20 µs |",
        ] {
            assert!(page.lines().any(|found| found == line), "{line}: {page}");
        }
        assert!(
            page.ends_with(&format!("\n{REDIS_BENCHMARK_CHECKS}\n")),
            "{page}"
        );
        assert!(!page.contains("was checked"), "{page}");
        figures.heartbeats = Some(Heartbeats {
            seconds: 1.0,
            every_ms: 50.0,
            gaps: 1,
            gap_ms_p9999: 51.0,
            gap_ms_worst: 51.0,
            false_alarms: 0,
            requests_per_s: 1.0,
        });
        let page = Page::of(&figures).text();
        assert!(
            page.contains("Every answer of every other load was checked: nothing"),
            "{page}"
        );
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
