//! Text for people on standard output: aligned columns, amounts with units, colour on a terminal.

use std::fmt::{self, Display};
use std::io::{self, IsTerminal as _, Write as _};

/// Prints a report. A reader that went away is no error.
pub(super) fn print(report: &impl Display) -> anyhow::Result<()> {
    let mut out = io::stdout().lock();
    let text = report.to_string();
    let written = out.write_all(text.as_bytes()).and_then(|()| out.flush());
    Ok(ignore_gone_reader(written)?)
}

/// `| head` ends before its writer, and that is no error.
pub(super) fn ignore_gone_reader(written: io::Result<()>) -> io::Result<()> {
    match written {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        other => other,
    }
}

/// Columns as wide as their widest cell, two blanks apart. Numbers stand to the right.
#[derive(Debug, Default)]
pub(super) struct Table {
    rows: Vec<Vec<Cell>>,
}

/// A cell of a [`Table`].
#[derive(Debug)]
pub(super) enum Cell {
    /// To the left.
    Text(String),
    /// To the right.
    Number(String),
}

impl Cell {
    fn text(&self) -> &str {
        match self {
            Cell::Text(text) | Cell::Number(text) => text,
        }
    }
}

/// A cell of text.
pub(super) fn text(value: impl Display) -> Cell {
    Cell::Text(value.to_string())
}

/// A cell that stands to the right.
pub(super) fn number(value: impl Display) -> Cell {
    Cell::Number(value.to_string())
}

impl Table {
    /// Adds a row.
    pub(super) fn row(&mut self, cells: impl IntoIterator<Item = Cell>) {
        self.rows.push(cells.into_iter().collect());
    }

    /// Adds a row of a name and a value.
    pub(super) fn pair(&mut self, name: &str, value: impl Display) {
        self.row([text(name), text(value)]);
    }
}

impl Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let columns = self.rows.iter().map(Vec::len).max().unwrap_or(0);
        let widths: Vec<usize> = (0..columns)
            .map(|column| {
                let cells = self.rows.iter().filter_map(|row| row.get(column));
                cells.map(|cell| cell.text().chars().count()).max()
            })
            .map(Option::unwrap_or_default)
            .collect();
        for row in &self.rows {
            let cells: Vec<String> = row
                .iter()
                .zip(&widths)
                .map(|(cell, width)| match cell {
                    Cell::Text(text) => format!("{text:<width$}"),
                    Cell::Number(text) => format!("{text:>width$}"),
                })
                .collect();
            writeln!(f, "{}", cells.join("  ").trim_end())?;
        }
        Ok(())
    }
}

/// An amount of bytes as people read it: `12.3 MiB`.
pub(super) fn bytes(amount: u64) -> String {
    const UNITS: [&str; 4] = ["KiB", "MiB", "GiB", "TiB"];
    let mut scaled = amount as f64;
    let mut unit = "bytes";
    for next in UNITS {
        if scaled < 1024.0 {
            break;
        }
        (scaled, unit) = (scaled / 1024.0, next);
    }
    match unit {
        "bytes" => format!("{amount} bytes"),
        _ => format!("{scaled:.1} {unit}"),
    }
}

/// `1 entry`, `2 entries`.
pub(super) fn count(amount: impl TryInto<u64>, one: &str, several: &str) -> String {
    let amount = amount.try_into().unwrap_or(u64::MAX);
    format!("{amount} {}", if amount == 1 { one } else { several })
}

/// A rate in bits a second: `12.3 kbit/s`.
pub(super) fn bit_rate(bits_per_s: f64) -> String {
    match bits_per_s {
        rate if rate >= 1e9 => format!("{:.2} Gbit/s", rate / 1e9),
        rate if rate >= 1e6 => format!("{:.2} Mbit/s", rate / 1e6),
        rate if rate >= 1e3 => format!("{:.1} kbit/s", rate / 1e3),
        rate => format!("{rate:.0} bit/s"),
    }
}

/// A span of time: `850 ms`, `12.3 s`, `5 min 3 s`, `2 h 10 min`, `3 d 4 h`.
pub(super) fn span_ms(ms: u64) -> String {
    let seconds = ms / 1000;
    match seconds {
        0 => format!("{ms} ms"),
        1..60 => format!("{:.1} s", ms as f64 / 1e3),
        60..3600 => format!("{} min {} s", seconds / 60, seconds % 60),
        3600..86_400 => format!("{} h {} min", seconds / 3600, seconds / 60 % 60),
        _ => format!("{} d {} h", seconds / 86_400, seconds / 3600 % 24),
    }
}

/// How a word is to be taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Tone {
    /// As it should be.
    Good,
    /// To be looked at.
    Doubtful,
    /// Not as it should be.
    Bad,
}

/// `word` in bold and the colour of its tone, if standard output is a terminal that wants colours.
pub(super) fn toned(word: &str, tone: Tone) -> String {
    // https://no-color.org
    let plain = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    if plain || !io::stdout().is_terminal() {
        return word.to_owned();
    }
    let colour = match tone {
        Tone::Good => 32,
        Tone::Doubtful => 33,
        Tone::Bad => 31,
    };
    format!("\x1b[1;{colour}m{word}\x1b[0m")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up_and_leave_no_blanks_at_the_end() {
        let mut table = Table::default();
        table.row([text("kind"), number("count"), text("")]);
        table.row([text("net-rx"), number(7), text("x")]);
        assert_eq!(table.to_string(), "kind    count\nnet-rx      7  x\n");
        assert_eq!(Table::default().to_string(), "");
    }

    #[test]
    fn amounts_have_the_unit_that_people_would_choose() {
        let sizes = [
            (0, "0 bytes"),
            (1023, "1023 bytes"),
            (1536, "1.5 KiB"),
            (5 << 20, "5.0 MiB"),
            (u64::MAX, "16777216.0 TiB"),
        ];
        for (amount, expected) in sizes {
            assert_eq!(bytes(amount), expected);
        }
        let spans = [
            (999, "999 ms"),
            (1_500, "1.5 s"),
            (61_000, "1 min 1 s"),
            (3_660_000, "1 h 1 min"),
            (90_000_000, "1 d 1 h"),
        ];
        for (ms, expected) in spans {
            assert_eq!(span_ms(ms), expected);
        }
        assert_eq!(bit_rate(1_500.0), "1.5 kbit/s");
    }
}
