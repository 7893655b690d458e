//! `--keep`: the pair stays, for people to play with.

use super::super::stage::process::{What, Who};
use super::super::stage::{Audience as _, Stage};

use super::view::View;

/// Says how to connect, and then tells what happens. Never returns; to be cancelled.
pub(super) async fn keep(stage: &mut Stage, view: &mut View) -> ! {
    for line in instructions(stage) {
        view.line(&line);
    }
    loop {
        let happening = stage.next().await;
        view.happening(&happening);
        if let What::Ended(status) = happening.what {
            view.line(&format!("  {}", stage.obituary(happening.who, status)));
        }
    }
}

fn instructions(stage: &Stage) -> Vec<String> {
    let port = stage.guest().port();
    let alive: Vec<(Who, i32)> = stage
        .processes()
        .filter(|(_, process)| process.runs())
        .map(|(who, process)| (who, process.pid()))
        .collect();
    let pids = alive.iter().map(|(who, pid)| format!("{who} {pid}"));
    let mut lines = vec![
        String::new(),
        "It all stays as it is until Ctrl-C:".to_owned(),
        String::new(),
        format!("  redis-cli -p {port}"),
        format!("  redis-benchmark -p {port} -t set,get,incr -c 8 -q"),
    ];
    for (who, pid) in &alive {
        if let Who::Primary | Who::Backup = who {
            lines.push(format!("  kill -9 {pid:<31} the {who}"));
        }
    }
    for (who, _) in &alive {
        if let Who::Primary | Who::Backup = who {
            let control = stage.control(*who);
            lines.push(format!("  ftvm status --control {}", control.display()));
        }
    }
    let dir = stage.dir().display();
    lines.extend([
        format!("  ftvm log stats {dir}/backup-log"),
        String::new(),
        format!("processes   {}", pids.collect::<Vec<_>>().join(", ")),
        format!("directory   {dir}: logs, consoles, both nodes' logs of entries, and capture.pcap"),
        String::new(),
    ]);
    lines
}
