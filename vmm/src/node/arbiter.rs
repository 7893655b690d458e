//! What the protocol asks the arbiter, in the arbiter's own terms.

use ft_logging::protocol::{Answer, Question, RecordView};
use ft_logging::types::{Generation, Incarnation, Life};
use test_and_set::register::{Record, Refusal};
use test_and_set::types::{self, Member, Members, VmName};
use test_and_set::{ChangeOutcome, ClaimOutcome, Client, ClientConfig};
use tokio::sync::mpsc;

use super::Event;
use super::failpoint::{Failpoint, Fuse};

/// Who asks.
#[derive(Clone, Debug)]
pub(super) struct Asker {
    pub(super) vm: VmName,
    pub(super) life: Life,
    pub(super) generation: Generation,
    pub(super) me: Member,
    /// The other member, as far as it is known.
    pub(super) peer: Option<Member>,
}

/// The task that asks, one question at a time.
#[derive(Debug)]
pub(super) struct Arbiter {
    questions: mpsc::UnboundedSender<(Asker, Question)>,
}

impl Arbiter {
    pub(super) fn start(config: ClientConfig, events: mpsc::Sender<Event>, fuse: Fuse) -> Self {
        let (questions, mut inbox) = mpsc::unbounded_channel::<(Asker, Question)>();
        tokio::spawn(async move {
            let mut client = Client::new(config);
            while let Some((asker, question)) = inbox.recv().await {
                let points = match &question {
                    Question::Open { .. } => Some((Failpoint::BeforeOpen, Failpoint::AfterOpen)),
                    Question::Claim => Some((Failpoint::BeforeClaim, Failpoint::AfterClaim)),
                    Question::Read | Question::Stop => None,
                };
                if let Some((before, _)) = points {
                    fuse.reach(before);
                }
                let answer = ask(&mut client, asker, question).await;
                if let Some((_, after)) = points {
                    fuse.reach(after);
                }
                if events.send(Event::Answer(answer)).await.is_err() {
                    return;
                }
            }
        });
        Arbiter { questions }
    }

    pub(super) fn ask(&self, asker: Asker, question: Question) {
        let _ = self.questions.send((asker, question));
    }
}

async fn ask(client: &mut Client, asker: Asker, question: Question) -> Answer {
    let Asker {
        vm,
        life,
        generation,
        me,
        peer,
    } = asker;
    let life = types::Life(life.0);
    let generation = types::Generation(generation.0);
    let by = me.incarnation;
    match question {
        Question::Open { members: wanted } => {
            let members: Vec<Member> = [Some(me), peer]
                .into_iter()
                .flatten()
                .filter(|member| wanted.contains(&Incarnation(member.incarnation.0)))
                .collect();
            match Members::try_from(members) {
                Ok(members) => changed(client.create(vm, life, members).await),
                Err(error) => Answer::Refused(error.to_string()),
            }
        }
        Question::Read => match client.read(vm).await {
            Ok(record) => Answer::Record(record.filter(|r| r.life == life).map(|r| view(&r))),
            Err(silence) => Answer::Unknown(silence.to_string()),
        },
        Question::Claim => match client.claim(vm, life, generation, by).await {
            ClaimOutcome::Won => Answer::Won,
            ClaimOutcome::Lost { to } => Answer::Lost {
                to: Incarnation(to.0),
            },
            ClaimOutcome::Stopped => Answer::Stopped,
            ClaimOutcome::Deleted => Answer::Deleted,
            ClaimOutcome::Refused(refusal) => Answer::Refused(explain(&refusal)),
            // TAS-4: neither is "lost".
            ClaimOutcome::Unknown(why) | ClaimOutcome::Unreachable(why) => Answer::Unknown(why),
        },
        Question::Stop => {
            let reason = "stopped in order".parse().expect("a short text");
            match client.stop(vm, life, generation, by, reason).await {
                ChangeOutcome::Refused(Refusal::NotWinner(record)) => match record.winner {
                    Some(winner) => Answer::Lost {
                        to: Incarnation(winner.0),
                    },
                    None => Answer::Unknown("no winner, and not stopped".to_owned()),
                },
                outcome => changed(outcome),
            }
        }
    }
}

fn changed(outcome: ChangeOutcome) -> Answer {
    match outcome {
        ChangeOutcome::Done => Answer::Opened,
        ChangeOutcome::Stopped => Answer::Stopped,
        ChangeOutcome::Deleted => Answer::Deleted,
        ChangeOutcome::Refused(refusal) => Answer::Refused(explain(&refusal)),
        ChangeOutcome::Unknown(why) | ChangeOutcome::Unreachable(why) => Answer::Unknown(why),
    }
}

fn view(record: &Record) -> RecordView {
    RecordView {
        generation: Generation(record.generation.0),
        members: record
            .members
            .as_slice()
            .iter()
            .map(|member| Incarnation(member.incarnation.0))
            .collect(),
        winner: record.winner.map(|winner| Incarnation(winner.0)),
        stopped: record.stopped.is_some(),
    }
}

/// What to tell a person, and what to do about it.
fn explain(refusal: &Refusal) -> String {
    match refusal {
        Refusal::OtherLife(record) => {
            let holders: Vec<String> = record
                .members
                .as_slice()
                .iter()
                .map(|m| m.node.to_string())
                .collect();
            format!(
                "a VM of this name exists already: life {}, generation {}, on {}. If it runs, \
                 leave it alone; if both of its nodes are lost, `ftvm recover` goes on with one \
                 that still has its state, and `ftvm arbiter delete` gives it up",
                record.life,
                record.generation,
                holders.join(" and ")
            )
        }
        other => format!("{other:?}"),
    }
}
