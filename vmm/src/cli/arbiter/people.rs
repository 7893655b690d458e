//! What people ask of the arbiter: how it is, what it knows, and changes by hand.

use std::process::ExitCode;

use clap::Args;
use serde::Serialize;
use test_and_set::register::{Record, Refusal};
use test_and_set::types::{Address, ClusterId, Life, ServerId, VmName};
use test_and_set::{ChangeOutcome, Client, ClientConfig, Role, Status};

use super::super::output::json_line;
use super::super::text::{Table, Tone, number, print, text, toned};
use super::parse_peer;
use super::reach::Reach;

/// Which arbiter is asked.
#[derive(Debug, Args)]
struct ArbiterChoice {
    /// Its servers, host:port, separated by commas; some of them are enough.
    #[arg(
        long,
        value_name = "SERVERS",
        value_delimiter = ',',
        default_value = "127.0.0.1:7301"
    )]
    servers: Vec<String>,
    /// Its cluster id; without it the first that answers is trusted.
    #[arg(long, value_name = "ID")]
    cluster: Option<ClusterId>,
    /// Answer in JSON.
    #[arg(long)]
    json: bool,
}

impl ArbiterChoice {
    fn client(&self) -> Client {
        let mut config = ClientConfig::new(self.servers.clone());
        config.cluster = self.cluster;
        Client::new(config)
    }
}

#[derive(Debug, Args)]
#[command(after_help = "\
Example:
  ftvm arbiter status --servers a:7301,b:7301,c:7301

Exit status: 0 if a majority of the servers answers and has a leader, 1 if not.")]
pub(super) struct StatusArgs {
    #[command(flatten)]
    arbiter: ArbiterChoice,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Example:
  ftvm arbiter list --servers a:7301,b:7301,c:7301")]
pub(super) struct ListArgs {
    #[command(flatten)]
    arbiter: ArbiterChoice,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Example:
  ftvm arbiter show kv --servers a:7301,b:7301,c:7301")]
pub(super) struct ShowArgs {
    /// The VM's name.
    vm: VmName,
    #[command(flatten)]
    arbiter: ArbiterChoice,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  ftvm arbiter delete kv                     says what would happen
  ftvm arbiter delete kv --life 0f6c…        deletes this life and no other

Exit status: 0 if it is deleted, 1 if not, 2 if it was not confirmed.")]
pub(super) struct DeleteArgs {
    /// The VM's name.
    vm: VmName,
    /// The life that is to end: a VM that was made anew in the meantime is left alone.
    #[arg(long, value_name = "ID")]
    life: Option<Life>,
    /// Whatever life it is, give it up.
    #[arg(long, conflicts_with = "life")]
    yes: bool,
    #[command(flatten)]
    arbiter: ArbiterChoice,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Example:
  on the new host:  ftvm arbiter serve --id 4 --listen 10.0.0.4:7301 --data a4 --join
  anywhere:         ftvm arbiter add 4=10.0.0.4:7301 --servers a:7301,b:7301,c:7301")]
pub(super) struct AddArgs {
    /// The server, as ID=HOST:PORT. Its id must never have been used.
    #[arg(value_parser = parse_peer)]
    server: (ServerId, Address),
    #[command(flatten)]
    arbiter: ArbiterChoice,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Example:
  ftvm arbiter remove 3 --servers a:7301,b:7301,c:7301")]
pub(super) struct RemoveArgs {
    /// The server's id.
    id: u64,
    #[command(flatten)]
    arbiter: ArbiterChoice,
}

/// A server in a report.
#[derive(Debug, Serialize)]
struct ServerView {
    address: String,
    reachable: bool,
    /// What it says of itself, or why it does not.
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<ServerState>,
    #[serde(skip_serializing_if = "Option::is_none")]
    why: Option<String>,
}

#[derive(Debug, Serialize)]
struct ServerState {
    id: ServerId,
    role: String,
    leader: Option<ServerId>,
    term: u64,
    applied: u64,
    last_log: u64,
    cluster: Option<String>,
    waiting: Option<String>,
}

impl From<&Status> for ServerState {
    fn from(status: &Status) -> Self {
        ServerState {
            id: status.server,
            role: status.role.to_string(),
            leader: status.leader,
            term: status.term,
            applied: status.applied,
            last_log: status.last_log,
            cluster: status.cluster.map(|cluster| cluster.to_string()),
            waiting: status.waiting.clone(),
        }
    }
}

#[derive(Debug, Serialize)]
struct ArbiterView {
    decides: bool,
    reach: Reach,
    summary: String,
    servers: Vec<ServerView>,
}

/// `ftvm arbiter status`.
pub(super) fn status(args: StatusArgs) -> anyhow::Result<ExitCode> {
    let mut client = args.arbiter.client();
    let statuses = super::super::block_on(async { Ok(client.status_all().await) })?;
    let answers: Vec<&Status> = statuses.values().flatten().collect();
    let reach = Reach::of(&answers);
    let has_leader = answers.iter().any(|status| status.role == Role::Leader);
    let mut told: Vec<ServerId> = Vec::new();
    let mut servers = Vec::new();
    for (address, answer) in &statuses {
        // One server may be known by several addresses.
        if let Ok(status) = answer {
            if told.contains(&status.server) {
                continue;
            }
            told.push(status.server);
        }
        servers.push(ServerView {
            address: address.clone(),
            reachable: answer.is_ok(),
            status: answer.as_ref().ok().map(ServerState::from),
            why: answer.as_ref().err().map(|silence| silence.0.clone()),
        });
    }
    let decides = reach.decides() && has_leader;
    let summary = match reach.decides() && !has_leader {
        true => "a majority answers, but has no leader: an election is under way, or the servers \
                 cannot reach each other"
            .to_owned(),
        false => reach.to_string(),
    };
    let view = ArbiterView {
        decides,
        reach,
        summary,
        servers,
    };
    if args.arbiter.json {
        json_line(&view)?;
    } else {
        print(&status_text(&view))?;
    }
    Ok(if decides {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn status_text(view: &ArbiterView) -> String {
    let word = match (&view.reach, view.decides) {
        (Reach::Sound { .. }, true) => toned("DECIDES", Tone::Good),
        (_, true) => toned("DECIDES, FRAGILE", Tone::Doubtful),
        (_, false) => toned("DECIDES NOTHING", Tone::Bad),
    };
    let mut table = Table::default();
    table.row([
        text("server"),
        number("id"),
        text("role"),
        number("term"),
        number("applied"),
        text("leader"),
    ]);
    for server in &view.servers {
        let address = text(&server.address);
        match (&server.status, &server.why) {
            (Some(status), _) => {
                let leader = match (&status.waiting, status.leader) {
                    (Some(waiting), _) => format!("waits for {waiting}"),
                    (None, Some(leader)) => leader.to_string(),
                    (None, None) => "none known".to_owned(),
                };
                table.row([
                    address,
                    number(status.id),
                    text(&status.role),
                    number(status.term),
                    number(status.applied),
                    text(leader),
                ]);
            }
            (None, why) => {
                let why = why.as_deref().unwrap_or_default();
                let none = || number("-");
                table.row([
                    address,
                    none(),
                    text("no answer"),
                    none(),
                    none(),
                    text(why),
                ]);
            }
        }
    }
    let cluster = view
        .servers
        .iter()
        .find_map(|server| server.status.as_ref()?.cluster.as_deref())
        .map_or(String::new(), |id| format!("Cluster {id}\n"));
    format!("{word}  {}\n{cluster}{table}", view.summary)
}

/// A VM's record in a report.
#[derive(Debug, Serialize)]
struct VmView {
    vm: String,
    life: String,
    generation: u64,
    members: Vec<MemberView>,
    /// The winner's incarnation.
    winner: Option<String>,
    /// Why it was stopped, if it was.
    stopped: Option<String>,
}

#[derive(Debug, Serialize)]
struct MemberView {
    node: String,
    address: String,
    incarnation: String,
    winner: bool,
}

impl VmView {
    fn new(vm: &VmName, record: &Record) -> Self {
        let members = record.members.as_slice().iter();
        VmView {
            vm: vm.to_string(),
            life: record.life.to_string(),
            generation: record.generation.0,
            members: members
                .map(|member| MemberView {
                    node: member.node.to_string(),
                    address: member.address.to_string(),
                    incarnation: member.incarnation.to_string(),
                    winner: record.winner == Some(member.incarnation),
                })
                .collect(),
            winner: record.winner.map(|winner| winner.to_string()),
            stopped: record.stopped.as_ref().map(|stop| stop.reason.to_string()),
        }
    }

    fn state(&self) -> String {
        let winner = self.members.iter().find(|member| member.winner);
        match (&self.stopped, &self.winner, winner) {
            (Some(reason), _, _) => format!("stopped: {reason}"),
            (None, Some(_), Some(winner)) => format!("won by {}", winner.node),
            (None, Some(winner), None) => format!("won by {winner}"),
            (None, None, _) => "open: nobody has claimed it".to_owned(),
        }
    }
}

/// `ftvm arbiter list`.
pub(super) fn list(args: ListArgs) -> anyhow::Result<ExitCode> {
    let mut client = args.arbiter.client();
    let records = super::super::block_on(async { Ok(client.list().await?) })?;
    let views: Vec<VmView> = records
        .iter()
        .map(|(vm, record)| VmView::new(vm, record))
        .collect();
    if args.arbiter.json {
        json_line(&views)?;
        return Ok(ExitCode::SUCCESS);
    }
    let mut table = Table::default();
    table.row([
        text("VM"),
        number("generation"),
        text("members"),
        text("state"),
        text("life"),
    ]);
    for view in &views {
        let nodes: Vec<&str> = view
            .members
            .iter()
            .map(|member| member.node.as_str())
            .collect();
        table.row([
            text(&view.vm),
            number(view.generation),
            text(nodes.join(", ")),
            text(view.state()),
            text(&view.life),
        ]);
    }
    print(&table)?;
    Ok(ExitCode::SUCCESS)
}

/// `ftvm arbiter show`.
pub(super) fn show(args: ShowArgs) -> anyhow::Result<ExitCode> {
    let mut client = args.arbiter.client();
    let record = super::super::block_on(async { Ok(client.read(args.vm.clone()).await?) })?;
    let Some(record) = record else {
        return Err(unknown(&args.vm));
    };
    let view = VmView::new(&args.vm, &record);
    if args.arbiter.json {
        json_line(&view)?;
    } else {
        print(&show_text(&view))?;
    }
    Ok(ExitCode::SUCCESS)
}

fn unknown(vm: &VmName) -> anyhow::Error {
    anyhow::anyhow!(
        "the arbiter knows no VM {vm}: it was never started with this arbiter, or is deleted; \
         `ftvm arbiter list` names those that it knows"
    )
}

fn show_text(view: &VmView) -> String {
    let mut table = Table::default();
    table.pair("VM", &view.vm);
    table.pair("life", &view.life);
    table.pair("generation", view.generation);
    table.pair("state", view.state());
    for member in &view.members {
        let won = if member.winner { ", the winner" } else { "" };
        let MemberView {
            node,
            address,
            incarnation,
            ..
        } = member;
        table.pair(
            "member",
            format!("{node} at {address}, incarnation {incarnation}{won}"),
        );
    }
    table.to_string()
}

/// `ftvm arbiter delete`.
pub(super) fn delete(args: DeleteArgs) -> anyhow::Result<ExitCode> {
    let DeleteArgs {
        vm,
        life,
        yes,
        arbiter,
    } = args;
    super::super::block_on(async {
        let mut client = arbiter.client();
        let life = match life {
            Some(life) => life,
            None => {
                let record = client.read(vm.clone()).await?.ok_or_else(|| unknown(&vm))?;
                if !yes {
                    eprint!("{}", warning(&VmView::new(&vm, &record)));
                    return Ok(ExitCode::from(2));
                }
                record.life
            }
        };
        match client.delete(vm.clone(), life).await {
            ChangeOutcome::Done | ChangeOutcome::Deleted => {
                if arbiter.json {
                    json_line(&serde_json::json!({ "deleted": vm, "life": life.to_string() }))?;
                } else {
                    eprintln!("ftvm: VM {vm}, life {life}, is given up: no node can go on with it");
                }
                Ok(ExitCode::SUCCESS)
            }
            outcome => Err(failed(&vm, &outcome)),
        }
    })
}

fn warning(view: &VmView) -> String {
    format!(
        "ftvm: this would give VM {vm} up, for ever:\n{record}Its nodes, if they still run, halt \
         when they next ask; no backup of it ever takes over; what the guest holds in memory is \
         lost. The name can be used for a new VM afterwards.\nTo do so, add --life {life} (or \
         --yes, whatever life it is by then)\n",
        vm = view.vm,
        life = view.life,
        record = show_text(view),
    )
}

fn failed(vm: &VmName, outcome: &ChangeOutcome) -> anyhow::Error {
    match outcome {
        ChangeOutcome::Refused(Refusal::OtherLife(record)) => anyhow::anyhow!(
            "VM {vm} is another life by now, {}, and is left alone: `ftvm arbiter show {vm}`",
            record.life
        ),
        ChangeOutcome::Refused(Refusal::UnknownVm) => unknown(vm),
        ChangeOutcome::Refused(refusal) => anyhow::anyhow!("VM {vm} was not deleted: {refusal:?}"),
        ChangeOutcome::Unknown(why) => {
            anyhow::anyhow!("VM {vm} may or may not be deleted: {why}. Ask again, that is harmless")
        }
        ChangeOutcome::Unreachable(why) => {
            anyhow::anyhow!("VM {vm} was not deleted: the arbiter does not answer: {why}")
        }
        ChangeOutcome::Stopped | ChangeOutcome::Done | ChangeOutcome::Deleted => {
            anyhow::anyhow!("VM {vm} was not deleted: the arbiter answered another question")
        }
    }
}

/// `ftvm arbiter add`.
pub(super) fn add(args: AddArgs) -> anyhow::Result<ExitCode> {
    let (id, address) = args.server;
    let mut client = args.arbiter.client();
    super::super::block_on(async { Ok(client.add_server(id, address.clone()).await?) })?;
    if args.arbiter.json {
        json_line(&serde_json::json!({ "added": id, "address": address }))?;
    } else {
        eprintln!("ftvm: server {id} at {address} has caught up and votes");
    }
    Ok(ExitCode::SUCCESS)
}

/// `ftvm arbiter remove`.
pub(super) fn remove(args: RemoveArgs) -> anyhow::Result<ExitCode> {
    let id = ServerId(args.id);
    let mut client = args.arbiter.client();
    super::super::block_on(async { Ok(client.remove_server(id).await?) })?;
    if args.arbiter.json {
        json_line(&serde_json::json!({ "removed": id }))?;
    } else {
        eprintln!("ftvm: server {id} is out of the cluster, for ever: stop it and wipe its store");
    }
    Ok(ExitCode::SUCCESS)
}
