//! The console's lines, taken apart at the marks that `/init` prints around each program.

use std::collections::BTreeMap;

use super::qemu::tail;

const MARK: &str = "@@ftvm";

/// A mark as it stands on a line of its own.
pub(super) fn mark(section: &str, what: &str) -> String {
    format!("{MARK} {section} {what}")
}

/// What one program said, its exit status if it came to an end, and how long it took.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Section {
    pub(super) lines: Vec<String>,
    status: Option<i32>,
    pub(super) seconds: u64,
}

/// The programs by name.
#[derive(Debug)]
pub(super) struct Sections<'a> {
    console: &'a [String],
    sections: BTreeMap<&'a str, Section>,
}

impl<'a> Sections<'a> {
    pub(super) fn parse(console: &'a [String]) -> Self {
        let mut sections = BTreeMap::<&str, Section>::new();
        let mut open = None;
        for line in console {
            let words: Vec<&str> = line.split(' ').collect();
            match (words.as_slice(), open) {
                ([MARK, name, "begins"], _) => open = Some(*name),
                ([MARK, name, "ended", status, seconds], _) => {
                    open = None;
                    let section = sections.entry(name).or_default();
                    section.status = status.parse().ok();
                    section.seconds = seconds.parse().unwrap_or_default();
                }
                (_, Some(name)) => sections.entry(name).or_default().lines.push(line.clone()),
                (_, None) => {}
            }
        }
        Sections { console, sections }
    }

    /// A program that ended well.
    ///
    /// # Panics
    ///
    /// If it did not end well: with its last lines, or the console's if it did not end.
    pub(super) fn succeeded(&self, name: &str) -> &Section {
        let section = self.sections.get(name);
        match section.and_then(|section| Some((section, section.status?))) {
            Some((section, 0)) => section,
            Some((section, status)) => {
                panic!("{name}: exit status {status}\n{}", tail(&section.lines))
            }
            None => panic!("{name} did not end\n{}", tail(self.console)),
        }
    }
}

#[test]
fn sections_are_what_stands_between_two_marks() {
    let console = [
        "kernel: noise",
        "@@ftvm kvm begins",
        "crw------- /dev/kvm",
        "@@ftvm kvm ended 0 0",
        "@@ftvm suite begins",
        "test a ... ok",
        "@@ftvm suite ended 101 12",
        "@@ftvm demo begins",
        "panic",
    ]
    .map(str::to_owned);
    let sections = Sections::parse(&console).sections;
    let section = |name| {
        let section: &Section = &sections[name];
        (section.lines.len(), section.status, section.seconds)
    };
    assert_eq!(section("kvm"), (1, Some(0), 0));
    assert_eq!(section("suite"), (1, Some(101), 12));
    assert_eq!(section("demo"), (1, None, 0));
    assert_eq!(sections.len(), 3);
}
