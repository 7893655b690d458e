//! What a benchmark is reported as, for people: as text, and as Markdown for the documents.

use std::fmt::Write as _;

use super::super::text::{Table, number, text as cell};
use super::figures::{Host, LeftOut};

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

    /// Whether it has no rows.
    pub(super) fn is_empty(&self) -> bool {
        self.rows.is_empty()
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
