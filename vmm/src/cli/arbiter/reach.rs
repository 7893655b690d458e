//! Whether an arbiter can decide, and which host it could not lose (TAS-3, TAS-6). Pure.

use std::collections::BTreeMap;
use std::fmt::{self, Display};

use serde::Serialize;
use test_and_set::Status;

/// A server that votes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Voter {
    /// Its address without the port.
    pub(super) host: String,
    /// Whether it answers.
    pub(super) answers: bool,
}

/// What the servers can do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "verdict", rename_all = "kebab-case")]
pub(super) enum Reach {
    /// No server answers.
    Silent,
    /// Servers answer, but none is part of a cluster.
    NoCluster,
    /// Fewer than a majority answer: nothing is granted (TAS-3).
    NoMajority {
        /// How many answer.
        answering: usize,
        /// How many there are.
        voters: usize,
    },
    /// It decides, until one of these hosts is lost.
    Fragile {
        /// The hosts.
        hosts: Vec<String>,
        /// How many servers answer.
        answering: usize,
        /// How many there are.
        voters: usize,
    },
    /// It decides, and would without any one host.
    Sound {
        /// How many servers answer.
        answering: usize,
        /// How many there are.
        voters: usize,
    },
}

impl Reach {
    /// Of the servers as the one that knows most has them.
    pub(super) fn of(statuses: &[&Status]) -> Self {
        if statuses.is_empty() {
            return Reach::Silent;
        }
        let newest = statuses
            .iter()
            .filter(|status| status.cluster.is_some())
            .max_by_key(|status| (status.term, status.applied, status.last_log));
        let Some(newest) = newest else {
            return Reach::NoCluster;
        };
        let voters = newest.servers.iter().filter(|server| server.voter);
        let voters: Vec<Voter> = voters
            .map(|server| Voter {
                host: host(server.address.as_str()).to_owned(),
                answers: statuses.iter().any(|status| status.server == server.id),
            })
            .collect();
        Self::of_voters(&voters)
    }

    fn of_voters(voters: &[Voter]) -> Self {
        if voters.is_empty() {
            return Reach::NoCluster;
        }
        let majority = voters.len() / 2 + 1;
        let mut by_host: BTreeMap<&str, usize> = BTreeMap::new();
        for voter in voters.iter().filter(|voter| voter.answers) {
            *by_host.entry(&voter.host).or_default() += 1;
        }
        let (answering, voters) = (by_host.values().sum::<usize>(), voters.len());
        if answering < majority {
            return Reach::NoMajority { answering, voters };
        }
        let hosts: Vec<String> = by_host
            .iter()
            .filter(|(_, here)| answering - **here < majority)
            .map(|(host, _)| (*host).to_owned())
            .collect();
        match hosts.is_empty() {
            true => Reach::Sound { answering, voters },
            false => Reach::Fragile {
                hosts,
                answering,
                voters,
            },
        }
    }

    /// Whether anything can be granted now.
    pub(super) fn decides(&self) -> bool {
        matches!(self, Reach::Fragile { .. } | Reach::Sound { .. })
    }
}

impl Display for Reach {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Reach::Silent => write!(
                f,
                "no server answers: are they running, and are these their addresses? \
                 (`--servers HOST:PORT,...`)"
            ),
            Reach::NoCluster => write!(
                f,
                "the servers that answer are in no cluster: make one with `ftvm arbiter serve \
                 --init`, or have these added with `ftvm arbiter add`"
            ),
            Reach::NoMajority { answering, voters } => write!(
                f,
                "{answering} of {voters} servers answer, and {} are needed: no VM can go on alone \
                 or end until more are back. Start them again where their stores are",
                voters / 2 + 1
            ),
            Reach::Fragile {
                hosts,
                answering,
                voters,
            } => {
                let these = hosts.join(" or of ");
                write!(
                    f,
                    "{answering} of {voters} servers answer, and decide. The loss of {these} would \
                     stop the decision: no VM could go on after it. For protection the servers \
                     belong on three hosts, each with one (two hosts alone cannot decide)"
                )
            }
            Reach::Sound { answering, voters } => write!(
                f,
                "{answering} of {voters} servers answer, and decide; they would without any one \
                 host"
            ),
        }
    }
}

/// An address without its port.
fn host(address: &str) -> &str {
    address.rsplit_once(':').map_or(address, |(host, _)| host)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `a` is a server on host a that answers, `(a)` one that does not.
    fn reach(servers: &[&str]) -> Reach {
        let voter = |name: &&str| Voter {
            host: name.trim_matches(['(', ')']).to_owned(),
            answers: !name.starts_with('('),
        };
        Reach::of_voters(&servers.iter().map(voter).collect::<Vec<_>>())
    }

    #[test]
    fn tas_6_the_host_whose_loss_would_stop_the_decision_is_named() {
        let fragile: [(&[&str], &[&str]); 6] = [
            (&["a"], &["a"]),
            (&["a", "b"], &["a", "b"]),
            (&["a", "a", "a"], &["a"]),
            (&["a", "a", "b"], &["a"]),
            (&["a", "b", "(c)"], &["a", "b"]),
            (&["a", "a", "b", "b", "c"], &[]),
        ];
        for (servers, expected) in fragile {
            match reach(servers) {
                Reach::Fragile { hosts, .. } => assert_eq!(hosts, expected, "{servers:?}"),
                Reach::Sound { .. } => assert!(expected.is_empty(), "{servers:?}"),
                other => panic!("{servers:?}: {other:?}"),
            }
        }
        assert!(reach(&["a", "a", "b"]).to_string().contains("loss of a "));
        let sound = Reach::Sound {
            answering: 3,
            voters: 3,
        };
        assert_eq!(reach(&["a", "b", "c"]), sound);
    }

    #[test]
    fn tas_3_a_minority_is_said_to_decide_nothing() {
        for servers in [&["a", "(b)", "(c)"][..], &["a", "(b)"], &["(a)"]] {
            let reach = reach(servers);
            assert!(!reach.decides(), "{servers:?}");
            assert!(reach.to_string().contains("are needed"), "{reach}");
        }
        assert_eq!(reach(&[]), Reach::NoCluster);
        assert_eq!(Reach::of(&[]), Reach::Silent);
    }

    #[test]
    fn an_address_names_a_host() {
        assert_eq!(host("10.0.0.1:7301"), "10.0.0.1");
        assert_eq!(host("[::1]:7301"), "[::1]");
    }
}
