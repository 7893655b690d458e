//! One run on a raised stage, from the first request to the last check.

use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use tokio::time::{MissedTickBehavior, interval, sleep_until};

use super::super::stage::client::Load;
use super::super::stage::observe::{Observer, leader, servers, status};
use super::super::stage::process::{Happening, Said, What, Who};
use super::super::stage::{Audience as _, Stage};
use super::disk;
use super::evidence::{self, Evidence};
use super::report::{Figures, Notes};
use super::view::{Frame, View, millis};
use super::{Kill, Plan};
use crate::node::{NodeState, NodeStatus};

/// How long a takeover may take beyond the load's time.
const TAKEOVER_PATIENCE: Duration = Duration::from_secs(30);

/// How often the throughput is sampled and the view drawn.
const FRAME: Duration = Duration::from_millis(100);

/// The share of the load that comes before the kill.
const BEFORE: f64 = 0.4;

/// Runs the load, strikes in the middle of it, and checks what was promised.
///
/// # Errors
///
/// If something else than the wanted happens to a process, or nothing happens for too long. That
/// something was lost or doubled is no error but a result.
pub(super) async fn play(
    plan: &Plan,
    stage: &mut Stage,
    view: &mut View,
) -> anyhow::Result<Figures> {
    let observer = Observer::start(stage);
    stage.greet(view).await?;
    let load = Load::start(stage.guest(), plan.clients)
        .await
        .context("connecting the clients")?;
    view.new_load();
    view.note(&format!(
        "the pair is protected; {} clients begin, each over one TCP connection",
        plan.clients
    ));
    let mut run = Run {
        plan,
        first: Measured::now(stage).await?,
        last: None,
        strike: None,
        detected: None,
        winner: None,
        answered: false,
        load,
        observer,
        stage,
        view,
    };
    run.drive().await?;
    run.conclude().await
}

/// The primary's figures at a moment.
#[derive(Debug)]
struct Measured {
    at: Instant,
    status: NodeStatus,
}

impl Measured {
    async fn now(stage: &Stage) -> anyhow::Result<Self> {
        let status = status(&stage.control(Who::Primary))
            .await
            .context("the primary does not say how it is")?;
        Ok(Measured {
            at: Instant::now(),
            status,
        })
    }
}

/// What was done to the processes.
#[derive(Debug)]
struct Strike {
    at: Instant,
    /// Since the Unix epoch, as the capture counts.
    unix: Duration,
    gone: Vec<Who>,
    /// For people.
    what: String,
}

struct Run<'a> {
    plan: &'a Plan,
    stage: &'a mut Stage,
    view: &'a mut View,
    observer: Observer,
    load: Load,
    first: Measured,
    /// Just before the strike, or at the end.
    last: Option<Measured>,
    strike: Option<Strike>,
    /// When a node suspected the other.
    detected: Option<Instant>,
    /// Who won the generation, and when.
    winner: Option<(Who, Instant)>,
    answered: bool,
}

impl Run<'_> {
    async fn drive(&mut self) -> anyhow::Result<()> {
        let began = self.load.started();
        let seconds = Duration::from_secs_f64(self.plan.seconds);
        let mut end = began + seconds;
        let mut frames = interval(FRAME);
        frames.set_missed_tick_behavior(MissedTickBehavior::Skip);
        loop {
            let strikes = self.strike.is_none() && self.plan.kill != Kill::None;
            let due = if strikes {
                began + seconds.mul_f64(BEFORE)
            } else {
                end
            };
            tokio::select! {
                happening = self.stage.next() => self.follow(&happening).await?,
                _ = frames.tick() => self.draw(),
                () = sleep_until(due.into()) => {
                    if strikes {
                        self.strike().await?;
                    } else if !self.plan.kill.moves_the_vm() || self.winner.is_some() {
                        break;
                    } else if end < began + seconds + TAKEOVER_PATIENCE {
                        end += FRAME;
                    } else {
                        bail!(
                            "no node went on within {} s after the load's time; with --keep the processes' \
                             logs stay, and say why",
                            TAKEOVER_PATIENCE.as_secs()
                        );
                    }
                }
            }
        }
        self.draw();
        if self.last.is_none() {
            self.last = Some(Measured::now(self.stage).await?);
        }
        Ok(())
    }

    /// Does what the demo is about.
    async fn strike(&mut self) -> anyhow::Result<()> {
        let kill = self.plan.kill;
        let leader = if kill.takes_the_leader() {
            let servers = servers(self.stage.arbiter()).await;
            Some(leader(&servers).context("the arbiter has no leader: is this host very busy?")?)
        } else {
            None
        };
        self.last = Some(Measured::now(self.stage).await?);
        let gone: Vec<Who> = kill
            .node()
            .into_iter()
            .chain(leader.map(Who::Arbiter))
            .collect();
        let (at, unix) = (Instant::now(), evidence::unix_now());
        self.load.meter().killed(at - self.load.started());
        for who in &gone {
            if let Some(process) = self.stage.process(*who) {
                process
                    .kill()
                    .with_context(|| format!("killing the {who}"))?;
            }
        }
        let what = if kill == Kill::Partition {
            self.stage.cut();
            "the network between primary and backup".to_owned()
        } else {
            let names: Vec<String> = gone
                .iter()
                .map(|who| {
                    let pid = self.stage.process(*who).map_or(0, |p| p.pid());
                    format!("{who} (pid {pid})")
                })
                .collect();
            names.join(" and ")
        };
        let verb = if kill == Kill::Partition {
            "cut"
        } else {
            "SIGKILL"
        };
        self.view.strike(at, &format!("{verb} {what}"));
        self.strike = Some(Strike {
            at,
            unix,
            gone,
            what,
        });
        Ok(())
    }

    /// Takes what happens to the processes into account.
    async fn follow(&mut self, happening: &Happening) -> anyhow::Result<()> {
        let who = happening.who;
        match &happening.what {
            What::Ended(status) => {
                let wanted = self.strike.as_ref().is_some_and(|s| s.gone.contains(&who));
                if !wanted {
                    bail!(self.stage.obituary(who, *status));
                }
            }
            What::Said(Said::State { state, .. }) => {
                if *state == NodeState::Holding && self.strike.is_some() {
                    self.detected.get_or_insert(happening.at);
                }
                self.view.happening(happening);
            }
            What::Said(Said::Live { token }) => {
                self.winner = Some((who, happening.at));
                let status = status(&self.stage.control(who)).await;
                let claim = status
                    .and_then(|status| status.claim_ms)
                    .map_or_else(String::new, |ms| {
                        format!(" (claim {})", millis(Duration::from_secs_f64(ms / 1e3)))
                    });
                let text = format!(
                    "{who} is the VM: it won generation {}{claim}",
                    number(token)
                );
                self.view.event(happening.at, &text);
            }
            What::Said(_) => self.view.happening(happening),
        }
        Ok(())
    }

    fn draw(&mut self) {
        let (requests, writes, silence, last) = {
            let meter = self.load.meter();
            let silence = meter.silence_ended();
            (meter.requests(), meter.writes(), silence, meter.last())
        };
        let started = self.load.started();
        if let (Some((_, live)), Some(end), false) = (self.winner, silence, self.answered)
            && started + last > live
        {
            self.answered = true;
            // The longest silence may be another one: that between two answers under way at the kill.
            let text = "the clients get answers again, over the same connections";
            self.view.event(live.max(started + end), text);
        }
        let pid = |who| (who, self.stage.process(who).map_or(0, |p| p.pid()));
        self.view.draw(&Frame {
            seen: &self.observer.now(),
            pids: [pid(Who::Primary), pid(Who::Backup)],
            requests,
            writes,
            clients: self.plan.clients,
        });
    }

    /// Checks everything, and counts it up.
    async fn conclude(self) -> anyhow::Result<Figures> {
        let Run {
            plan, stage, view, ..
        } = self;
        view.note("the load ends; every acknowledged write is read back");
        let began = self.load.started();
        let meter = self.load.meter().clone();
        let last = self.last.context("a run is measured before it ends")?;
        let from = self.strike.as_ref().map(|strike| strike.unix);
        let until = evidence::unix_now();
        let mut verdict = self
            .load
            .finish(stage.guest())
            .await
            .context("reading everything back")?;
        let Evidence {
            frames,
            reopened,
            frames_repeated,
            speaking,
        } = evidence::gather(stage, from, until).await?;
        let survivor = match self.winner {
            Some((who, _)) => status(&stage.control(who)).await,
            None => None,
        };
        drop(self.observer);
        let on_disk = if stage.has_disk() && !plan.keep {
            let vm = self.winner.map_or(Who::Primary, |(who, _)| who);
            Some(disk::read_back(stage, view, vm, &mut verdict.promised).await?)
        } else {
            None
        };
        let since_strike = |at: Instant| {
            let strike = self.strike.as_ref()?;
            Some(ms(at.saturating_duration_since(strike.at)))
        };
        let before = meter.before();
        let rated_s = (last.at - self.first.at).as_secs_f64();
        let log_bytes = last.status.log_bytes - self.first.status.log_bytes;
        let longest = Duration::from_nanos(before.max_ns());
        Ok(Figures {
            kill: plan.kill,
            gateway_repeat: plan.repeat,
            clients: plan.clients,
            seconds: plan.seconds,
            detect_ms: plan.detect_ms,
            guest: last.status.guest.clone(),
            backend: last.status.backend.clone(),
            requests: meter.requests(),
            acknowledged: meter.writes(),
            checked: verdict.checked,
            lost: verdict.findings.lost,
            duplicated: verdict.findings.duplicated,
            connections_broken: verdict.broken,
            connections_reopened: reopened,
            frames_captured: frames,
            frames_repeated,
            killed_at_ms: self.strike.as_ref().map(|strike| ms(strike.at - began)),
            detected_ms: self.detected.and_then(since_strike),
            live_ms: self.winner.and_then(|(_, at)| since_strike(at)),
            blackout_ms: ms(meter.blackout().unwrap_or(longest)),
            median_request_us: before.quantile_ns(0.5) as f64 / 1e3,
            p99_request_us: before.quantile_ns(0.99) as f64 / 1e3,
            requests_per_s: before.count() as f64 / (last.at - began).as_secs_f64(),
            log_bits_per_s: log_bytes as f64 * 8.0 / rated_s,
            lag_ms_p99: last.status.lag_ms_p99,
            winner: self.winner.map(|(who, _)| who.to_string()),
            token: survivor.as_ref().unwrap_or(&last.status).token.clone(),
            claim_ms: survivor.and_then(|status| status.claim_ms),
            nodes_speaking: speaking,
            on_disk,
            notes: Notes {
                struck: self.strike.map(|strike| strike.what),
                fault: verdict.findings.first,
                why_broken: verdict.why_broken,
                history: view.history(),
            },
        })
    }
}

/// The generation in a token's text.
fn number(token: &str) -> &str {
    token.trim_end_matches(|c: char| !c.is_ascii_digit())
}

fn ms(duration: Duration) -> f64 {
    // Microseconds are enough.
    (duration.as_secs_f64() * 1e6).round() / 1e3
}
